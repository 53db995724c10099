"""Vision and language in one process: what stands above both services."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # here, since torch is imported by what follows
