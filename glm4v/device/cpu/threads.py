"""The number of threads that torch, and with it the kernels, compute with."""

import os

import torch

from glm4v.host.cpus import usable_cpus


def use_threads(count: int) -> None:
    """Use `count` threads; 0 uses as many as the affinity mask and the CPU quota allow.

    torch itself respects the affinity mask but not a container's quota. OMP_NUM_THREADS takes
    precedence over 0.
    """
    if count:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
