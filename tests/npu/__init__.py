"""The NPU's code against the real torch_npu on a pretend device; `make test-npu` runs it."""
