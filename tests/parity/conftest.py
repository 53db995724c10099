"""Checkpoints the golden outputs were computed from, written once a session."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glm4v.tiny import write_checkpoint, write_tiny
from tests.reference import REFERENCE


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the random-weight checkpoint called `name`, written on first use.

    All but "micro-glm4v" need the reference: their configurations and the real vocabulary.
    """
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            if name == "micro-glm4v":
                write_tiny(folder)
            else:
                entry = json.loads((REFERENCE / "configs.json").read_bytes())[name]
                tokenizer = (REFERENCE / "tokenizer.model").read_bytes()
                write_checkpoint(entry["config"], entry["seed"], tokenizer, folder)
            written[name] = folder
        return written[name]

    return write
