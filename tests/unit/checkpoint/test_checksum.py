"""The SHA-256 of a checkpoint is coreutils', and a node checks it once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from glm4v.checkpoint import checksum
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.errors import CheckpointError, ConfigurationError

SHELL = (
    "sha256sum config.json generation_config.json model-00001-of-00001.safetensors "
    "model.safetensors.index.json tokenizer.model | sha256sum | cut -d' ' -f1"
)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    copy = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, copy)
    (copy / "notes.txt").write_text("not read by anything")
    return checksum.checked_files(Checkpoint.open(copy))


def test_it_is_what_sha256sum_says(files: list[Path]) -> None:
    said = subprocess.run(SHELL, shell=True, cwd=files[0].parent, capture_output=True, check=True)
    assert checksum.checksum(files) == said.stdout.decode().strip()


def test_a_changed_byte_is_found(files: list[Path]) -> None:
    expected = checksum.checksum(files)
    weights = next(path for path in files if path.suffix == ".safetensors")
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(CheckpointError, match=f"not {expected}"):
        checksum.check(files, expected)


def test_a_node_reads_the_files_once_until_they_change(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, expected = tmp_path / "notes", checksum.checksum(files)
    notes.mkdir()
    assert checksum.check_once(files, expected, notes)
    with monkeypatch.context() as patch:
        patch.setattr(checksum, "checksum", lambda _: pytest.fail("the files were read again"))
        assert not checksum.check_once(files, expected, notes)
    os.utime(files[0])
    assert checksum.check_once(files, expected, notes)


def test_a_failed_check_leaves_no_note(files: list[Path], tmp_path: Path) -> None:
    wrong = "0" * 64
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"not {wrong}"):
            checksum.check_once(files, wrong, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_folder_that_cannot_be_written_is_named(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="folder that user"):
        checksum.check_once(files, checksum.checksum(files), tmp_path / "missing")
