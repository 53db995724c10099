"""8-bit weights: the rule, against exact fractions, and what parts of a matrix keep."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench.geometry import GLM_4V_9B
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization, QuantizedWeight, quantize
from glm4v.checkpoint.tensor_place import read_header
from glm4v.checkpoint.weights import Weights
from glm4v.errors import CheckpointError

TINIEST = float(np.finfo(np.float32).tiny)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half_even(value: Fraction) -> int:
    return round(value)  # of a Fraction: half to even


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 200])
def test_an_integer_is_the_nearest_multiple_of_the_groups_scale(columns: int) -> None:
    weight = random(3, columns)
    found = quantize(weight)
    for row in range(3):
        for start in range(0, columns, 64):
            values = weight[row, start : start + 64].tolist()
            scale = np.float32(max(map(abs, values))) / np.float32(127)
            assert found.scales[row, start // 64].item() == scale
            for column, value in enumerate(values, start):
                # The quotient is a float32 before it is rounded.
                quotient = Fraction(float(np.float32(value) / scale))
                assert found.values[row, column].item() == half_even(quotient)


def test_a_channel_is_one_group() -> None:
    weight = random(3, 200)
    found = quantize(weight, CHANNELS)
    assert torch.equal(found.scales, weight.abs().amax(1, keepdim=True) / 127)
    assert torch.equal(found.values.float(), (weight / found.scales).round())


def test_halves_are_rounded_to_even_and_ends_are_127() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5]])
    found = quantize(weight)
    assert found.scales.tolist() == [[1.0]]
    assert found.values.tolist() == [[127, 0, 2, 2, 0, -2, -127, 126]]


def test_a_group_without_magnitude_is_zero() -> None:
    weight = torch.zeros(1, 192)
    weight[0, 64] = TINIEST / 2  # its scale would not be a normal number
    weight[0, 128] = 127 * TINIEST
    found = quantize(weight)
    assert found.scales.tolist() == [[0.0, 0.0, TINIEST]]
    assert found.values.nonzero().tolist() == [[0, 128]]
    assert found.dequantize().isfinite().all()


@pytest.mark.parametrize("columns", [2100, 3424])
def test_an_error_is_half_a_step_at_most(columns: int) -> None:
    weight = random(50, columns)
    found = quantize(weight)
    steps = found.scales.repeat_interleave(64, 1)[:, :columns]
    assert ((found.dequantize() - weight).abs() <= steps * 0.5001).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_no_scale_can_hold_is_an_error(value: float) -> None:
    weight = torch.ones(2, 100)
    weight[1, 70] = value
    with pytest.raises(ValueError, match="NaN or infinite values"):
        quantize(weight)


@pytest.mark.parametrize(("group", "part"), [(64, (32, 100)), (64, (0, 64)), (None, (7, 130))])
def test_a_part_keeps_the_numbers_of_the_whole(group: int | None, part: tuple[int, int]) -> None:
    whole = quantize(random(5, 200), Quantization(group))
    assert torch.equal(whole.columns(*part).dequantize(), whole.dequantize()[:, slice(*part)])
    again = whole.columns(3, 190).columns(part[0], part[1])
    assert torch.equal(again.dequantize(), whole.dequantize()[:, part[0] + 3 : part[1] + 3])


def test_offsets_are_subtracted_before_the_scale() -> None:
    values = torch.tensor([[-128, 0, 127, 5]], dtype=torch.int8)
    scales, offsets = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 10.0]])
    weight = QuantizedWeight(values, scales, 2, offsets=offsets)
    assert weight.dequantize().tolist() == [[-250.0, 6.0, 58.5, -2.5]]
    assert weight.columns(1, 3).dequantize().tolist() == [[6.0, 58.5]]
    assert weight.without_zero_offsets() is weight
    none = QuantizedWeight(values, scales, 2, offsets=torch.zeros(1, 2)).without_zero_offsets()
    assert none.offsets is None
    with pytest.raises(ValueError, match="offsets like the scales"):
        QuantizedWeight(values, scales, 2, offsets=offsets[:, :1])


@pytest.mark.parametrize("lead", [0, 1])
def test_offsets_that_leave_8_bits_go_into_the_integers(lead: int) -> None:
    values = torch.tensor([[-8, 7, 3, -1]], dtype=torch.int8)[:, lead:]
    offsets = torch.tensor([[-3.0, 7.0]])
    weight = QuantizedWeight(values, torch.tensor([[2.0, 0.5]]), 2, lead, offsets)
    before = weight.dequantize()
    centred = weight.centred()
    assert centred.offsets is None
    assert centred.values.tolist() == [[-5, 10, -4, -8][lead:]]
    assert torch.equal(centred.dequantize(), before)


@pytest.mark.parametrize(
    ("scales", "lead"), [((2, 1), 0), ((2, 3), 0), ((1, 2), 0), ((2, 2), 64), ((2, 2), -1)]
)
def test_scales_that_do_not_fit_are_errors(scales: Sequence[int], lead: int) -> None:
    values = torch.zeros(2, 100, dtype=torch.int8)
    with pytest.raises(ValueError, match="scales"):
        QuantizedWeight(values, torch.zeros(*scales), 64, lead)


def weights_of(tensor: torch.Tensor, folder: Path, quantization: Quantization) -> Weights:
    file = folder / "model.safetensors"
    save_file({"matrix": tensor}, file)
    checkpoint = Checkpoint(folder, GLM_4V_9B, read_header(file), "")
    return Weights(checkpoint, torch.float32, torch.device("cpu"), quantization=quantization)


@pytest.mark.parametrize("quantization", [GROUPS, CHANNELS])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_read_parts_of_the_same_integers(
    tmp_path: Path, ranks: int, quantization: Quantization
) -> None:
    """13696 inputs of GLM-4V-9B's MLP: a fourth of them begins inside of a group."""
    matrix = random(20, 13696).bfloat16()
    weights = weights_of(matrix, tmp_path, quantization)
    whole = quantize(matrix, quantization)
    width = 13696 // ranks
    for rank in range(ranks):
        columns = (rank * width, (rank + 1) * width)
        part = weights.read_matrix("matrix", columns=columns)
        assert isinstance(part, QuantizedWeight)
        assert torch.equal(part.dequantize(), whole.dequantize()[:, slice(*columns)])
    rows = weights.read_matrix("matrix", rows=[(3, 7), (18, 20)])
    assert isinstance(rows, QuantizedWeight)
    assert torch.equal(rows.values, torch.cat((whole.values[3:7], whole.values[18:20])))


def test_a_matrix_with_nan_is_refused_by_its_name(tmp_path: Path) -> None:
    matrix = random(20, 100).bfloat16()
    matrix[11, 5] = math.nan
    with pytest.raises(CheckpointError, match=r"model\.safetensors: matrix has NaN or infinite"):
        weights_of(matrix, tmp_path, GROUPS).read_matrix("matrix")
