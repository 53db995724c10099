"""How well the model describes images: captions, their scores, and comparisons of two systems."""

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # before any module here imports torch
