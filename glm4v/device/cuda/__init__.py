"""NVIDIA GPUs, with PyTorch's own operators, CUDA graphs and NCCL."""
