"""Products with 8-bit weights against those of the same weights dequantized, in float64."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from glm4v.checkpoint.quantized import GROUPS, Matrix, Quantization, QuantizedWeight, quantize
from glm4v.device import LayerWeights
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import KernelLinear, Kernels
from glm4v.device.linear import Epilogue, PlainLinear
from tests.unit.device.sequences import Sequences, layers, random

pytestmark = pytest.mark.needs_compiler

MATRICES = ("qkv", "out", "gate_up", "down")


# Groups of 64 and 128, and one for each row; parts of TP slices begin inside of a group.
@pytest.mark.parametrize("group", [64, 128, None])
@pytest.mark.parametrize("part", [(0, 2100), (1050, 2100), (32, 700), (7, 8)])
@pytest.mark.parametrize("columns", [7, 150, 171])
def test_products_with_8_bits_are_those_of_dequantized_weights(
    kernels: Kernels, group: int | None, part: tuple[int, int], columns: int
) -> None:
    """A row's result is the same alone, with few others and among many, which are other code."""
    weight = quantize(random(columns, 2100) / 45, Quantization(group)).columns(*part)
    bias, x = random(columns, seed=2), random(40, part[1] - part[0], seed=1)
    linear = KernelLinear(kernels, weight, bias, bits=16)
    together = linear(x)
    expected = functional.linear(x.double(), weight.dequantize().double(), bias.double())
    torch.testing.assert_close(together.double(), expected, atol=2e-5, rtol=0)
    firsts = 0
    for rows in (1, 2, 3, 4, 5, 9, 16):
        assert torch.equal(linear(x[firsts : firsts + rows]), together[firsts : firsts + rows])
        firsts += rows


def test_integers_of_other_tools_go_down_to_minus_128(kernels: Kernels) -> None:
    """`quantize` makes none below -127; files of msmodelslim and llm-compressor have them."""
    values = torch.full((40, 300), -128, dtype=torch.int8)
    values[1::2, ::3] = 127
    weight = QuantizedWeight(values, random(40, 5).abs() / 128, 64)
    x = random(20, 300, seed=1)
    expected = functional.linear(x.double(), weight.dequantize().double())
    for rows in (1, 3, 20):
        product = KernelLinear(kernels, weight, bits=16)(x[:rows]).double()
        torch.testing.assert_close(product, expected[:rows], atol=2e-4, rtol=1e-5)


def test_offsets_are_subtracted(kernels: Kernels) -> None:
    """In 16 bits: no kernel has them."""
    values = (100 * random(40, 300)).clamp(-128, 127).to(torch.int8)
    offsets = (50 * random(40, 1, seed=1)).round()
    weight = QuantizedWeight(values, torch.full((40, 1), 0.25), 300, offsets=offsets)
    x = random(3, 300)
    expected = functional.linear(x, weight.dequantize(torch.bfloat16).float())
    product = KernelLinear(kernels, weight, bits=16)(x)
    torch.testing.assert_close(product, expected, atol=1e-2, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 70),
    inputs=st.integers(1, 600),
    columns=st.integers(1, 150).map(lambda half: 2 * half),
    epilogue=st.sampled_from(["none", "gelu", "silu_gate"]),
)
def test_8_bits_take_any_shape_and_what_follows_a_product(
    kernels: Kernels, rows: int, inputs: int, columns: int, epilogue: Epilogue
) -> None:
    weight, x = quantize(random(columns, inputs)), random(rows, inputs, seed=1) / math.sqrt(inputs)
    dense = weight.dequantize().double()
    expected = PlainLinear(dense, epilogue=epilogue)(x.double())
    product = KernelLinear(kernels, weight, bits=16, epilogue=epilogue)(x)
    torch.testing.assert_close(product.double(), expected, atol=1e-4, rtol=1e-5)


def with_matrices(change: Callable[[torch.Tensor], Matrix], layer: LayerWeights) -> LayerWeights:
    """The layer with its matrices changed."""
    changed: dict[str, Any] = {
        field.name: change(getattr(layer, field.name))
        if field.name in MATRICES
        else getattr(layer, field.name)
        for field in fields(layer)
    }
    return LayerWeights(**changed)


def test_layers_of_8_bits_are_those_of_dequantized_weights(kernels: Kernels) -> None:
    lengths = [700, 30, 2]
    quantized = [with_matrices(quantize, layer) for layer in layers()]
    dense = [with_matrices(lambda matrix: quantize(matrix).dequantize(), one) for one in layers()]
    device = CpuDevice(torch.float32, kernels, half_weights=True, quantization=GROUPS)
    ours = Sequences(device, lengths, 16, quantized)
    plain = Sequences(CpuDevice(torch.float32), lengths, 16, dense)
    for rows in ({0: 650, 1: 9}, {0: 1, 1: 20, 2: 1}, {0: 1, 1: 1, 2: 1}, {0: 40}):
        expected = plain.step(rows)
        for number, result in ours.step(rows).items():
            torch.testing.assert_close(result, expected[number], atol=3e-5, rtol=1e-5)


def test_groups_that_no_kernel_knows_are_errors(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="groups of 24 columns; multiples of 16 are known"):
        KernelLinear(kernels, quantize(random(4, 60), Quantization(24)), bits=16)
    with pytest.raises(ValueError, match="a gated weight"):
        KernelLinear(kernels, quantize(random(3, 60)), bits=16, epilogue="silu_gate")
