"""How OpenMP's threads, which torch computes with, wait for each other."""

import os


def wait_briefly() -> None:
    """Let them spin for some microseconds only, unless the environment says otherwise.

    As long as the gaps between products are: longer takes the cores from what runs beside them, our
    own kernels' threads above all, and to sleep at once costs a tenth of the speed. Has to be
    called before anything of torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
