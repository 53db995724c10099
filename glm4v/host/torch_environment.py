"""Environment variables that decide how torch starts; read once, while it is imported."""

import os


def prepare_torch() -> None:
    """Set them for this process and its children, unless the environment says otherwise.

    Has to be called before anything of torch is imported.
    """
    _wait_briefly()
    _load_no_plugins()


def _wait_briefly() -> None:
    """Let OpenMP's threads spin for some microseconds only.

    As long as the gaps between products are: longer takes the cores from what runs beside them, our
    own kernels' threads above all, and to sleep at once costs a tenth of the speed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _load_no_plugins() -> None:
    """Let `import torch` leave the entry points `torch.backends` alone; torch 2.5 and newer.

    An installed plug-in (torch_npu, for one) may print on standard output, or raise where its
    driver is not set up, and the process does not use it. A device that is a plug-in's imports it.
    """
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
