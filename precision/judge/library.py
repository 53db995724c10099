"""Imports open_clip, which does not load beside a torchvision of another build than torch."""

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from glm4v.errors import ConfigurationError
from glm4v.process.extras import what_to_install

_EXTRA = "precision"


def load_open_clip() -> ModuleType:
    """The package, kept from downloading. Raises ConfigurationError that says what to install."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before what reads it is imported
    try:
        return importlib.import_module("open_clip")
    except ModuleNotFoundError as error:
        package = (error.name or "open_clip").partition(".")[0]
        raise ConfigurationError(what_to_install(package, _EXTRA)) from None
    except (RuntimeError, ImportError, OSError) as error:
        # torchvision registers operators that its compiled half, linked to another torch, has not.
        if "torchvision" not in f"{error}" and "torchvision" not in sys.modules:
            raise
        raise ConfigurationError(_other_build(error)) from None


def _other_build(error: Exception) -> str:
    torch = version("torch")
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        found = "of an unknown version"
    backend = "cpu" if torch.endswith("+cpu") else "auto"
    release = torch.partition("+")[0]
    return (
        f"torchvision {found} does not load beside torch {torch} ({error}): the two are of "
        f"different builds; run uv pip install --torch-backend {backend} --reinstall-package "
        f"torchvision torch=={release} torchvision"
    )
