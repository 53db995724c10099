"""How many threads torch computes with, and after it the kernels."""

import os

import torch

from glm4v.host.cpus import usable_cpus


def use_threads(count: int) -> None:
    """Take `count` threads; for 0 as many as the process may keep CPUs busy.

    torch by itself looks at the affinity and not at a container's quota. What the environment says
    for OpenMP stays.
    """
    if count:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
