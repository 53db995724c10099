"""Tries the changes that mutmut made of the NPU's code; tools/mutate-npu.sh starts it."""
