"""Checkpoints the golden outputs were computed from, built once a session."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reference import REFERENCE


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the random-weight checkpoint called `name`, built on first use."""
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            script = REFERENCE / "make_checkpoint.py"
            subprocess.run([sys.executable, str(script), name, str(folder)], check=True)
            built[name] = folder
        return built[name]

    return build
