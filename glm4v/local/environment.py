"""Variables of the processes that are started."""

import os
from pathlib import Path

import glm4v
from glm4v.host.cpus import usable_cpus


def threads_each(workers: int) -> int:
    """Compute threads of each worker when `workers` share the cores of this machine."""
    return max(1, usable_cpus() // max(1, workers))


def import_path() -> dict[str, str]:
    """Variables with which children import the services from where we were imported.

    A file in the current folder must not replace one of ours. An installed package needs no path,
    and site-packages in front would hide the standard library.
    """
    root = Path(glm4v.__file__).resolve().parents[1]
    if root.name in ("site-packages", "dist-packages"):
        return {"PYTHONSAFEPATH": "1"}
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
