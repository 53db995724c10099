"""Vision and language in one process."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # before any module here imports torch
