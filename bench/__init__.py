"""Benchmarks of the `glm4v bench` command."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # here, since torch is imported by what follows
