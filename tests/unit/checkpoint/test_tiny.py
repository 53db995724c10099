"""Tiny checkpoints: the same bits everywhere, and checkpoints that can be served."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import Values, draw_normal, write_checkpoint, write_tiny
from glm4v.errors import CheckpointError, InvalidRequest
from tests.reference import REFERENCE


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "new" / "tiny"
    write_tiny(folder)
    return folder


def test_can_be_served(tiny: Path) -> None:
    spec = Checkpoint.open(tiny).spec
    assert spec.vision.num_image_tokens == 18
    assert spec.first_special_id == 256
    vocabulary = (tiny / "tokenizer.model").read_text(encoding="ascii").splitlines()
    assert [line.split()[1] for line in vocabulary] == [str(i) for i in range(256)]
    added = json.loads((tiny / "tokenizer_config.json").read_bytes())["added_tokens_decoder"]
    assert added[str(spec.boi_id)]["content"] == "<|begin_of_image|>"
    assert added[str(spec.eoi_id)]["content"] == "<|end_of_image|>"


def test_is_the_same_each_time(tiny: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tiny)


def test_another_seed_gives_other_weights_and_another_fingerprint(
    tiny: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny / "config.json").read_bytes())
    write_checkpoint(config, 1, None, tmp_path / "other")
    other = Checkpoint.open(tmp_path / "other")
    assert other.fingerprint != Checkpoint.open(tiny).fingerprint


def test_the_fingerprint_is_that_of_earlier_releases(tiny: Path) -> None:
    """Else an update refuses, or forgets, every request that the release before accepted.

    The value is what the release with journals of format 1 computes (commit d92b7f9).
    """
    assert Checkpoint.open(tiny).fingerprint == "5db3c068ddb5a6b903f3f332660b865d"


def test_overwrites_no_checkpoint(tiny: Path) -> None:
    before = digests(tiny)
    with pytest.raises(InvalidRequest, match="holds a checkpoint already"):
        write_tiny(tiny)
    assert digests(tiny) == before


def test_what_an_interrupted_run_left_is_no_checkpoint_and_is_written_again(
    tiny: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny / "config.json").read_bytes())
    calls = iter(range(20))

    def draw(seed: int, count: int) -> Values:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return draw_normal(seed, count)

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(config, 1, None, tmp_path / "again", draw)
    assert list((tmp_path / "again").rglob("model-*"))
    with pytest.raises(CheckpointError, match="no such file; is this a GLM-4V checkpoint"):
        Checkpoint.open(tmp_path / "again")
    write_tiny(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tiny)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        write_tiny(tmp_path / "file" / "folder")


def test_a_configuration_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_bytes()) | {"rmsnorm": False}
    with pytest.raises(CheckpointError, match="rmsnorm"):
        write_checkpoint(config, 1, None, tmp_path / "other")


@pytest.mark.needs_reference
@pytest.mark.parametrize("name", ["micro-glm4v", "tiny-glm4v"])
def test_files_are_those_the_golden_outputs_were_computed_from(name: str, tmp_path: Path) -> None:
    script = REFERENCE / "make_checkpoint.py"
    subprocess.run([sys.executable, str(script), name, str(tmp_path / "theirs")], check=True)
    known = json.loads((REFERENCE / "configs.json").read_bytes())[name]
    vocabulary = (REFERENCE / "tokenizer.model").read_bytes() if known["vocab"] == "real" else None
    write_checkpoint(known["config"], known["seed"], vocabulary, tmp_path / "ours")
    assert digests(tmp_path / "ours") == digests(tmp_path / "theirs")


@pytest.mark.needs_reference
def test_the_tiny_one_is_the_smallest_of_them(tiny: Path) -> None:
    known = json.loads((REFERENCE / "configs.json").read_bytes())["micro-glm4v"]
    assert json.loads((tiny / "config.json").read_bytes()) == known["config"]
