"""Whether there is a GPU, without the imports that computing on one needs: two seconds of them."""

import torch


def has_gpu() -> bool:
    """Whether PyTorch was built for GPUs and the driver has one."""
    return torch.cuda.is_available()
