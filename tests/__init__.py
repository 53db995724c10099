"""All tests, as a package: what holds for each of their processes is here."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()
