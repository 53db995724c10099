"""Environment variables that torch reads once, when it is imported."""

import os


def prepare_torch() -> None:
    """Set them for this process and its children, unless they are set already.

    Has to be called before torch is imported.
    """
    _limit_openmp_spin()
    _load_no_plugins()
    _use_huge_pages()


def _limit_openmp_spin() -> None:
    """Let OpenMP's threads spin for some microseconds only.

    That is as long as the gaps between matrix products. Longer spinning takes cores from other
    threads, our kernels' above all; no spinning costs a tenth of the speed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _load_no_plugins() -> None:
    """Keep `import torch` from loading the entry points `torch.backends` (torch 2.5 and newer).

    An installed plug-in such as torch_npu may print to standard output, or raise without its
    driver, in a process that does not use it. A device that needs a plug-in imports it.
    """
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


def _use_huge_pages() -> None:
    """Take tensors of 2 MB and more from huge pages (torch 2.2 and newer, on Linux).

    The system clears a page when it is touched for the first time: tensors are read from files in a
    quarter of the time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
