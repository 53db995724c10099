"""How the files that the package includes were made."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # here, since torch is imported by what follows
