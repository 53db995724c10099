"""`glm4v quantize`: the same integers as quantized while loading, and no half of a checkpoint."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization, QuantizedWeight
from glm4v.checkpoint.quantized_copy import write_quantized
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.weights import Weights
from glm4v.errors import CheckpointError, InvalidRequest

CPU = torch.device("cpu")
DOWN = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"


def silent(done: int, total: int) -> None:
    """Nobody hears how far it is."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    write_tiny(folder)
    return folder


def single_file(shards: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The same in one file of another dtype."""
    shutil.copytree(shards, folder)
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model-*")):
        tensors |= {name: tensor.to(dtype) for name, tensor in load_file(shard).items()}
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("quantization", [GROUPS, CHANNELS])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float32])
def test_matrices_are_those_that_are_quantized_while_loading(
    shards: Path, tmp_path: Path, quantization: Quantization, dtype: torch.dtype | None
) -> None:
    source = shards if dtype is None else single_file(shards, tmp_path / "source", dtype)
    before = Checkpoint.open(source)
    after = write_quantized(source, tmp_path / "target", quantization, silent)
    quantizing = Weights(before, torch.float32, CPU, quantization=quantization)
    keeping = Weights(after, torch.float32, CPU, keeps_int8=True)
    assert after.quantized.keys() == before.matrices().keys()
    for name, (rows, columns) in before.matrices().items():
        for ranks in (1, 2, 4):  # 176 inputs: halves of 88 begin inside of a group
            for rank in range(ranks):
                part = (columns * rank // ranks, columns * (rank + 1) // ranks)
                span = (rows * rank // ranks, rows * (rank + 1) // ranks)
                for where in ({"columns": part}, {"rows": [span]}):
                    ours = quantizing.read_matrix(name, **where)
                    kept = keeping.read_matrix(name, **where)
                    assert isinstance(ours, QuantizedWeight)
                    assert isinstance(kept, QuantizedWeight)
                    assert torch.equal(ours.values, kept.values)
                    assert torch.equal(ours.scales, kept.scales)
                    assert kept.offsets is None
                    assert torch.equal(ours.dequantize(), kept.dequantize())
    for name in before.tensors.keys() - before.matrices().keys():
        assert torch.equal(quantizing.read(name), keeping.read(name))
        assert after.tensors[name].dtype == before.tensors[name].dtype


def test_the_folder_has_what_other_tools_read(shards: Path, tmp_path: Path) -> None:
    """The words are those of the files in quantized_by, which compressed-tensors wrote."""
    written = write_quantized(shards, tmp_path / "target", GROUPS, silent)
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    found = config["quantization_config"]
    assert (found["quant_method"], found["format"]) == ("compressed-tensors", "pack-quantized")
    assert found["config_groups"]["group_0"]["weights"]["group_size"] == 64
    packed, scale, shape = (written.tensors[DOWN + end] for end in ("_packed", "_scale", "_shape"))
    assert (packed.dtype, packed.shape) == ("I32", (64, 44))
    assert (scale.dtype, scale.shape) == ("F32", (64, 3))
    assert load_file(shape.file)[DOWN + "_shape"].tolist() == [64, 176]
    for name in ("tokenizer.model", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / "target" / name).read_bytes() == (shards / name).read_bytes()


def test_nothing_is_overwritten_nor_quantized_twice(shards: Path, tmp_path: Path) -> None:
    write_quantized(shards, tmp_path / "target", GROUPS, silent)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()}
    with pytest.raises(InvalidRequest, match="target exists already; choose another folder"):
        write_quantized(shards, tmp_path / "target", GROUPS, silent)
    with pytest.raises(CheckpointError, match=r"quantized by compressed-tensors .* already"):
        write_quantized(tmp_path / "target", tmp_path / "again", GROUPS, silent)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


def test_a_killed_run_leaves_nothing_that_loads(shards: Path, tmp_path: Path) -> None:
    """Killed once each file in turn was begun; the next run takes the folder over."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from glm4v.checkpoint.quantized import GROUPS\n"
        "from glm4v.checkpoint.quantized_copy import write_quantized\n"
        "def report(done, total):\n"
        "    if done > 0.7 * total: os.kill(os.getpid(), 9)\n"
        "write_quantized(Path(sys.argv[1]), Path(sys.argv[2]), GROUPS, report)\n"
    )
    target = tmp_path / "target"
    run = subprocess.run([sys.executable, "-c", program, shards, target], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not target.exists()
    (unfinished,) = tmp_path.iterdir()
    assert len(list(unfinished.glob("*.safetensors"))) > 1
    with pytest.raises(CheckpointError):
        Checkpoint.open(unfinished)
    write_quantized(shards, target, GROUPS, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_disk_without_enough_space_is_known_before_anything_is_read(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))

    def report(done: int, total: int) -> None:
        raise AssertionError("something was read")

    with pytest.raises(InvalidRequest, match=r"No space left on device .* GB are needed, 0\.00 GB"):
        write_quantized(shards, tmp_path / "target", GROUPS, report)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_leaves_nothing(shards: Path, tmp_path: Path) -> None:
    """A limit on the size of files acts as a disk that is full."""
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from glm4v.checkpoint.quantized import GROUPS\n"
        "from glm4v.checkpoint.quantized_copy import write_quantized\n"
        "from glm4v.errors import InvalidRequest\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    write_quantized(Path(sys.argv[1]), Path(sys.argv[2]), GROUPS, lambda *_: None)\n"
        "except InvalidRequest as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, shards, tmp_path / "target"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "target cannot be written: File too large" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_the_same_folder(shards: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / ".target.unfinished"
    unfinished.mkdir()
    (unfinished / "of another run").touch()
    handle = os.open(unfinished, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InvalidRequest, match="target is being written by another process"):
        write_quantized(shards, tmp_path / "target", GROUPS, silent)
    os.close(handle)
    assert [path.name for path in unfinished.iterdir()] == ["of another run"]


def test_what_8_bits_cannot_hold_is_named(shards: Path, tmp_path: Path) -> None:
    source = single_file(shards, tmp_path / "source", torch.float32)
    tensors = load_file(source / "model.safetensors")
    tensors[DOWN][63, 175] = torch.nan
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{DOWN} has NaN or infinite values"):
        write_quantized(source, tmp_path / "target", GROUPS, silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_progress_ends_with_all_bytes(shards: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    write_quantized(shards, tmp_path / "target", GROUPS, lambda *bytes_: heard.append(bytes_))
    assert heard == sorted(heard)
    total = sum(Checkpoint.open(shards).stored_bytes(vision=vision) for vision in (True, False))
    assert heard[-1] == (total, total)
