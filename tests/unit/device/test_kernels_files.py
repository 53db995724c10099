"""Weights that the kernels read from files, against the same given as tensors."""

import json
import math
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.geometry import GLM_4V_9B
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.file_matrix import FileMatrix
from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization, quantize
from glm4v.checkpoint.tensor_place import TensorPlace
from glm4v.checkpoint.weights import Weights
from glm4v.device.cpu.kernels import KernelLinear, Kernels, read_embedding
from glm4v.device.linear import Epilogue
from glm4v.errors import CheckpointError
from tests.unit.device.sequences import random

pytestmark = pytest.mark.needs_compiler

MIB = 2**20
QUANTIZATIONS = {"8 bits by groups": GROUPS, "8 bits by channel": CHANNELS}
Range = tuple[int, int]


def checkpoint_of(folder: Path, **tensors: torch.Tensor) -> Checkpoint:
    """A checkpoint that has these tensors."""
    file = folder / "model.safetensors"
    save_file(tensors, file)
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    places = {
        name: TensorPlace(
            file,
            entry["dtype"],
            tuple(entry["shape"]),
            *(start + at for at in entry["data_offsets"]),
        )
        for name, entry in json.loads(data[8:start]).items()
    }
    return Checkpoint(folder, GLM_4V_9B, places, "")


def weights_of(
    checkpoint: Checkpoint, *, packs_files: bool, quantization: Quantization | None = None
) -> Weights:
    """Its tensors, left in their files or not."""
    cpu = torch.device("cpu")
    return Weights(
        checkpoint, torch.float32, cpu, quantization=quantization, packs_files=packs_files
    )


def special_values(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Random ones, with some whose exponents are the least and the greatest of 16 bits."""
    values = random(rows, columns).to(dtype)
    finfo = torch.finfo(dtype)
    most = min(finfo.max, torch.finfo(torch.bfloat16).max)
    edges = [most, -most, finfo.tiny, finfo.smallest_normal / 4, -0.0, 0.0]
    values.view(-1)[: len(edges)] = torch.tensor(edges, dtype=torch.float64).to(dtype)
    return values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", ["32 bits", "16 bits", *QUANTIZATIONS])
@pytest.mark.parametrize(
    ("rows", "columns", "epilogue"),
    [
        (None, None, "none"),
        ([(3, 60), (100, 141)], None, "silu_gate"),  # a rank's part of gate and up
        (None, (160, 391), "none"),  # one whose first group begins before it
        ([(0, 1)], (399, 400), "none"),
    ],
)
def test_a_weight_is_the_same_from_its_file(
    kernels: Kernels,
    tmp_path: Path,
    dtype: torch.dtype,
    form: str,
    rows: list[Range] | None,
    columns: Range | None,
    epilogue: Epilogue,
) -> None:
    """Columns of a unit matrix show each value as it is stored, bit for bit."""
    quantization = QUANTIZATIONS.get(form)
    matrix = random(150, 400).to(dtype) if quantization else special_values(150, 400, dtype)
    checkpoint = checkpoint_of(tmp_path, matrix=matrix)
    products = []
    for packs_files in (False, True):
        weights = weights_of(checkpoint, packs_files=packs_files, quantization=quantization)
        part = weights.read_matrix("matrix", rows=rows, columns=columns)
        bits = 32 if form == "32 bits" else 16
        linear = KernelLinear(kernels, part, bits=bits, epilogue=epilogue)
        products.append(linear(torch.eye(part.shape[1])))
    assert torch.equal(*products)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_matrices_are_stacked(kernels: Kernels, tmp_path: Path, dtype: torch.dtype) -> None:
    """Those of different dtypes too."""
    up = random(38, 90, seed=1).to(dtype)
    checkpoint = checkpoint_of(tmp_path, gate=random(38, 90), up=up)
    x = random(3, 90, seed=2)
    stacked = [
        KernelLinear(
            kernels,
            weights_of(checkpoint, packs_files=packs_files).read_stacked("gate", "up"),
            bits=32,
            epilogue="silu_gate",
        )(x)
        for packs_files in (False, True)
    ]
    assert torch.equal(*stacked)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bits", [16, 32])
def test_a_table_is_that_of_torch(
    kernels: Kernels, tmp_path: Path, dtype: torch.dtype, bits: int
) -> None:
    """Rounded to the nearest, half to even; NaN stays NaN."""
    values = special_values(201, 37, dtype)
    values[7, 3], values[8, 3], values[9, 3] = math.nan, math.inf, torch.finfo(dtype).max
    checkpoint = checkpoint_of(tmp_path, table=values)
    stored = weights_of(checkpoint, packs_files=True).read_table("table", rows=[(5, 200)])
    table = read_embedding(kernels, stored, bits=bits)(torch.arange(195))
    expected = values[5:200].to(torch.bfloat16 if bits == 16 else torch.float32)
    assert table.dtype == expected.dtype
    assert torch.equal(table.isnan(), expected.isnan())
    known = ~expected.isnan()
    assert torch.equal(table[known], expected[known])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("quantization", QUANTIZATIONS.values(), ids=QUANTIZATIONS)
def test_a_table_in_8_bits_is_that_of_the_rule(
    kernels: Kernels, tmp_path: Path, dtype: torch.dtype, quantization: Quantization
) -> None:
    values = random(201, 150).to(dtype)
    values[9] = 0
    checkpoint = checkpoint_of(tmp_path, table=values)
    ids = torch.tensor([4, 194, 0, 4, *range(60)], dtype=torch.int64)
    expected = quantize(values[5:200], quantization).dequantize()[ids]
    for packs_files in (False, True):
        weights = weights_of(checkpoint, packs_files=packs_files, quantization=quantization)
        table = read_embedding(kernels, weights.read_matrix("table", rows=[(5, 200)]), bits=16)
        assert torch.equal(table(ids), expected)
        assert table(ids[:0]).shape == (0, 150)
        for outside in (-1, 195):
            with pytest.raises(IndexError, match=f"{outside}"):
                table(torch.tensor([3, outside]))


def test_an_embedding_that_8_bits_cannot_hold_is_an_error(kernels: Kernels, tmp_path: Path) -> None:
    values = random(201, 150)
    values[199, 149] = math.inf
    weights = weights_of(
        checkpoint_of(tmp_path, table=values), packs_files=True, quantization=GROUPS
    )
    with pytest.raises(CheckpointError, match="table has NaN or infinite values, which 8 bits"):
        read_embedding(kernels, weights.read_matrix("table"), bits=16)


def test_a_file_that_became_shorter_is_an_error_by_its_name(
    kernels: Kernels, tmp_path: Path
) -> None:
    """Not the end of the process, as for a mapped file."""
    checkpoint = checkpoint_of(tmp_path, matrix=random(64, 400))
    part = weights_of(checkpoint, packs_files=True).read_matrix("matrix")
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    said = r"model\.safetensors: matrix cannot be read: the file is truncated"
    with pytest.raises(CheckpointError, match=said):
        KernelLinear(kernels, part, bits=32)


def test_a_file_that_vanished_is_an_error_by_its_name(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, matrix=random(64, 400))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"matrix cannot be read: .*No such file"):
        weights_of(checkpoint, packs_files=True).read_matrix("matrix")


def test_a_file_that_the_system_cannot_read_is_an_error_by_its_name(
    kernels: Kernels, tmp_path: Path
) -> None:
    """A closed file stands for a disk with an error."""
    checkpoint = checkpoint_of(tmp_path, matrix=random(64, 400))
    part = weights_of(checkpoint, packs_files=True).read_matrix("matrix")
    assert isinstance(part, FileMatrix)
    folder = tmp_path / "folder"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    os.dup2(descriptor, part.rows[0].file.descriptor)
    os.close(descriptor)
    with pytest.raises(CheckpointError, match=r"matrix cannot be read: .*Is a directory"):
        KernelLinear(kernels, part, bits=32)


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [(11, 5), (63, 399)])
def test_what_8_bits_cannot_hold_is_an_error_by_its_name(
    kernels: Kernels, tmp_path: Path, spoiled: float, at: tuple[int, int]
) -> None:
    matrix = random(64, 400).bfloat16()
    matrix[at] = spoiled
    checkpoint = checkpoint_of(tmp_path, matrix=matrix)
    part = weights_of(checkpoint, packs_files=True, quantization=GROUPS).read_matrix("matrix")
    with pytest.raises(CheckpointError, match=r"matrix has NaN or infinite values, which 8 bits"):
        KernelLinear(kernels, part, bits=16)


def counter(file: str, name: str) -> int:
    """A number of this process in /proc."""
    lines = Path("/proc/self", file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(("quantization", "held"), [(None, 96 * MIB), (GROUPS, 51 * MIB)])
def test_a_file_is_read_once_and_its_weight_is_held_once(
    kernels: Kernels, tmp_path: Path, quantization: Quantization | None, held: int
) -> None:
    """Never more memory than the packed weight and some rows of it for each thread."""
    matrix = torch.zeros(12288, 4096, dtype=torch.bfloat16)
    checkpoint = checkpoint_of(tmp_path, matrix=matrix)
    del matrix
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.0005):
            most = max(most, counter("status", "RssAnon:") * 1024)

    before, read_before = counter("status", "RssAnon:") * 1024, counter("io", "rchar:")
    watch = threading.Thread(target=look)
    watch.start()
    weights = weights_of(checkpoint, packs_files=True, quantization=quantization)
    part = weights.read_matrix("matrix")
    linear = KernelLinear(kernels, part, bits=16)
    done.set()
    watch.join()
    assert counter("io", "rchar:") - read_before < 97 * MIB
    assert most - before < held + 12 * MIB
    assert linear(torch.zeros(1, 4096)).isfinite().all()
