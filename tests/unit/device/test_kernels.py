"""The compiled kernels against torch, whatever the shapes, the threads and the processor."""

import math
import multiprocessing
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from glm4v.device import AttentionSegment
from glm4v.device.collectives import SingleRank
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import (
    KernelAttention,
    KernelDecoder,
    KernelLinear,
    Kernels,
)
from glm4v.device.linear import Epilogue, PlainLinear
from tests.processes import states_of_threads, wait_until
from tests.unit.device.sequences import (
    HEAD_DIM,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    Sequences,
    layers,
    random,
    shape,
)

pytestmark = pytest.mark.needs_compiler


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 70),
    inputs=st.integers(1, 600),
    columns=st.integers(1, 150),
    bits=st.sampled_from([16, 32]),
    with_bias=st.booleans(),
)
def test_products_are_those_of_double_precision(
    kernels: Kernels, rows: int, inputs: int, columns: int, bits: int, with_bias: bool
) -> None:
    weight, x = random(columns, inputs) / math.sqrt(inputs), random(rows, inputs, seed=1)
    bias = random(columns, seed=2) if with_bias else None
    kept = weight.bfloat16() if bits == 16 else weight
    expected = functional.linear(x.double(), kept.double(), None if bias is None else bias.double())
    product = KernelLinear(kernels, weight, bias, bits=bits)(x)
    torch.testing.assert_close(product.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("columns", [7, 150, 171])
@pytest.mark.parametrize("bits", [16, 32])
def test_few_rows_take_panels_together_and_in_parts(
    kernels: Kernels, rows: int, columns: int, bits: int
) -> None:
    weight, x = random(columns, 2100) / 45, random(rows, 2100, seed=1)
    kept = weight.bfloat16() if bits == 16 else weight
    product = KernelLinear(kernels, weight, None, bits=bits)(x)
    expected = functional.linear(x.double(), kept.double())
    torch.testing.assert_close(product.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("epilogue", ["gelu", "silu_gate"])
@pytest.mark.parametrize("columns", [2, 38, 128])
def test_what_follows_a_product_is_that_of_torch(
    kernels: Kernels, epilogue: Epilogue, columns: int
) -> None:
    weight, bias, x = random(columns, 60), random(columns, seed=1), random(17, 60, seed=2)
    expected = PlainLinear(weight.double(), bias.double(), epilogue=epilogue)(x.double())
    ours = KernelLinear(kernels, weight, bias, bits=32, epilogue=epilogue)(x)
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1e30, -1e30, math.nan])
def test_extreme_values_go_through_gelu_and_gate_as_through_torch(
    kernels: Kernels, value: float
) -> None:
    for epilogue in ("gelu", "silu_gate"):
        weight, x = torch.ones(2, 1), torch.tensor([[value]])
        expected = PlainLinear(weight, epilogue=epilogue)(x)
        ours = KernelLinear(kernels, weight, bits=32, epilogue=epilogue)(x)
        torch.testing.assert_close(ours, expected, atol=1e-30, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_row_gets_the_same_result_whatever_stands_beside_it(kernels: Kernels, bits: int) -> None:
    linear, x = KernelLinear(kernels, random(200, 2100), None, bits=bits), random(150, 2100, seed=1)
    together = linear(x)
    for first, last in ((0, 1), (1, 3), (3, 6), (6, 20), (20, 150), (7, 42)):
        assert torch.equal(linear(x[first:last]), together[first:last])


def test_the_number_of_threads_changes_nothing(kernels: Kernels) -> None:
    linear, x = KernelLinear(kernels, random(500, 300), None, bits=16), random(40, 300, seed=1)
    products = []
    for threads in (1, 2, 5):
        kernels.set_num_threads(threads)
        products.append(linear(x))
    kernels.set_num_threads(3)
    assert torch.equal(products[0], products[1])
    assert torch.equal(products[0], products[2])


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_layers_are_those_of_torch(kernels: Kernels, block_size: int) -> None:
    lengths = [700, 30, 2]
    ours = Sequences(CpuDevice(torch.float32, kernels), lengths, block_size)
    plain = Sequences(CpuDevice(torch.float32), lengths, block_size)
    steps = ({0: 650, 1: 9}, {0: 1, 1: 20, 2: 1}, {0: 1, 1: 1, 2: 1}, {0: 40})
    for rows in steps:
        expected = plain.step(rows)
        for number, result in ours.step(rows).items():
            torch.testing.assert_close(result, expected[number], atol=2e-5, rtol=1e-5)


def test_a_sequence_gets_the_same_rows_whatever_stands_beside_it(kernels: Kernels) -> None:
    device = CpuDevice(torch.float32, kernels)
    alone = Sequences(device, [640], 16)
    whole = alone.step({0: 640})[0]
    beside = Sequences(device, [640, 50, 33], 16)
    at = 0
    for rows in ({0: 500, 1: 5}, {1: 1, 0: 17}, {2: 20, 0: 1, 1: 1}, {0: 1, 2: 1}, {0: 121, 1: 9}):
        part = beside.step(rows)[0]
        assert torch.equal(part, whole[at : at + len(part)])
        at += len(part)
    assert at == 640


def test_layers_of_a_range_alone_are_those_of_all_together(kernels: Kernels) -> None:
    device = CpuDevice(torch.float32, kernels)
    decoder = KernelDecoder(kernels, layers(), shape(), SingleRank(), bits=32)
    attention = device.paged_attention()
    attention.allocate(layers=LAYERS, blocks=4, block_size=8, kv_heads=KV_HEADS, head_dim=HEAD_DIM)
    attention.prepare([AttentionSegment(20, 0, (3, 0, 2))])
    hidden, positions = random(20, HIDDEN), torch.arange(20)
    together = decoder.run(range(LAYERS), hidden.clone(), positions, attention)
    for layer in range(LAYERS):
        hidden = decoder.run(range(layer, layer + 1), hidden, positions, attention)
    assert torch.equal(hidden, together)
    assert decoder.layers_done == 2 * LAYERS


@pytest.mark.parametrize("position", [-1, 2000])
def test_a_position_without_angles_is_an_error(kernels: Kernels, position: int) -> None:
    decoder = KernelDecoder(kernels, layers(), shape(), SingleRank(), bits=32)
    attention = CpuDevice(torch.float32, kernels).paged_attention()
    attention.allocate(layers=LAYERS, blocks=1, block_size=8, kv_heads=KV_HEADS, head_dim=HEAD_DIM)
    attention.prepare([AttentionSegment(2, 0, (0,))])
    with pytest.raises(IndexError, match="of 2000"):
        decoder.run(range(1), random(2, HIDDEN), torch.tensor([1, position]), attention)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_values_that_are_no_numbers_stay_visible(kernels: Kernels, poison: float) -> None:
    sequences = Sequences(CpuDevice(torch.float32, kernels), [5, 5], 16)
    sequences._rows[0][2, 7] = poison
    results = sequences.step({0: 5, 1: 5})
    assert not results[0][2:].isfinite().any()
    assert results[1].isfinite().all()


def test_several_threads_may_call_at_once(kernels: Kernels) -> None:
    linear, x = KernelLinear(kernels, random(600, 300), None, bits=32), random(30, 300, seed=1)
    expected = linear(x)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(50) if not torch.equal(linear(x), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _multiply(kernels: Kernels, ours: "multiprocessing.connection.Connection") -> None:
    linear = KernelLinear(kernels, random(600, 300), None, bits=32)
    ours.send(linear(random(30, 300, seed=1)).sum().item())


def test_a_forked_process_has_threads_of_its_own(native: Kernels) -> None:
    expected = KernelLinear(native, random(600, 300), None, bits=32)(random(30, 300, seed=1))
    theirs, ours = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_multiply, args=(native, ours))
    child.start()
    assert theirs.poll(30)
    assert theirs.recv() == expected.sum().item()
    child.join(30)
    assert child.exitcode == 0


def test_threads_without_work_sleep(kernels: Kernels) -> None:
    linear = KernelLinear(kernels, random(600, 300), None, bits=32)
    linear(random(30, 300))
    # One that spins is never asleep, however little of a processor it gets.
    wait_until(lambda: set(states_of_threads().values()) <= {"S"})


@pytest.mark.parametrize("head_dim", [12, 128])
def test_the_cache_takes_the_bytes_that_the_device_says(kernels: Kernels, head_dim: int) -> None:
    attention = KernelAttention(kernels)
    blocks, block_size = 8, 16  # a multiple of all vector widths
    attention.allocate(
        layers=LAYERS, blocks=blocks, block_size=block_size, kv_heads=KV_HEADS, head_dim=head_dim
    )
    taken = attention._keys.nbytes + attention._values.nbytes
    for device in (CpuDevice(torch.float32, kernels), CpuDevice(torch.float32)):
        each = device.kv_bytes_per_token(layers=LAYERS, kv_heads=KV_HEADS, head_dim=head_dim)
        if device.paged_attention().__class__ is KernelAttention:
            assert blocks * block_size * each == taken
        else:
            assert each == 2 * LAYERS * KV_HEADS * head_dim * 4
