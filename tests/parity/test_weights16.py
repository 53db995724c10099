"""16-bit weights with float32 arithmetic, against float32 and the original."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint import Checkpoint
from glm4v.device import Device, open_device
from glm4v.device.linear import HalfWeightLinear, PackedLinear, fits_half
from glm4v.errors import InvalidRequest
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case

pytestmark = pytest.mark.skipif(
    not HalfWeightLinear.is_available(), reason="this processor or build of torch has no fbgemm"
)


@pytest.fixture
def device() -> Device:
    return open_device("cpu", "weights16")


def test_a_bfloat16_checkpoint_gives_the_original_outputs(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    """bfloat16 values in the range of float16 are kept exactly: nothing is lost but order of sums.

    Pictures included.
    """
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    golden = open_golden("bundled")
    model = load_model(checkpoint, device)
    played = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    results = play(model, device, checkpoint.spec, played, chunk=7, block_size=4)
    for case, result in zip(played, results, strict=True):
        torch.testing.assert_close(result.logits[0], case.last_logits, atol=2e-5, rtol=0)
        assert tuple(token.token_id for token in result.tokens)[: len(case.tokens)] == case.tokens


@pytest.mark.parametrize("shape", [(1024, 768), (5120, 768), (768, 2560)])
@pytest.mark.parametrize("rows", [0, 1, 3, 10, 300])
def test_float32_weights_are_rounded_and_nothing_else_is(
    device: Device, shape: tuple[int, int], rows: int
) -> None:
    torch.manual_seed(0)
    weight, bias, x = (
        torch.randn(shape) / shape[1] ** 0.5,
        torch.randn(shape[0]),
        torch.randn(rows, shape[1]),
    )
    product = device.linear(weight, bias)(x)
    rounded = x.double() @ weight.half().double().T + bias.double()
    torch.testing.assert_close(product.double(), rounded, atol=2e-5, rtol=0)
    exact = x.double() @ weight.double().T + bias.double()
    assert (product - exact).norm() <= 3e-4 * exact.norm()


def test_a_row_gets_the_same_result_whatever_stands_beside_it(device: Device) -> None:
    linear, x = device.linear(torch.randn(200, 96)), torch.randn(70, 96)
    together = linear(x)
    for first, last in ((0, 1), (1, 3), (3, 20), (20, 70)):
        assert torch.equal(linear(x[first:last]), together[first:last])


@pytest.mark.parametrize("scale", [1e6, 1e-9, float("nan")])
def test_a_weight_out_of_range_is_kept_in_float32_and_the_log_says_so(
    device: Device, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    weight, x = torch.randn(48, 24), torch.randn(5, 24)
    weight[7, 3] = scale if scale != 1e-9 else weight[7, 3]
    weight *= 1e-9 if scale == 1e-9 else 1.0
    expected = x @ weight.T
    with caplog.at_level(logging.WARNING):
        product = device.linear(weight.clone())(x)
        table = device.table(weight)
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=0.0, equal_nan=True)
    assert torch.equal(table.nan_to_num(), weight.nan_to_num())
    assert [r.message for r in caplog.records if "(48, 24)" in r.message] == [
        f"a weight of shape (48, 24) with values up to {weight.abs().max():g} is kept in float32: "
        "float16 does not hold it"
    ] * 2


def test_the_largest_float16_still_fits_and_the_next_does_not() -> None:
    weight = torch.randn(10, 10)
    weight[0, 0] = 65504.0
    assert fits_half(weight)
    weight[0, 0] = 65536.0
    assert not fits_half(weight)


def test_tables_are_stored_in_16_bits_and_many_rows_meet_packed_float32(device: Device) -> None:
    assert device.table(torch.randn(9, 4)).dtype == torch.float16
    assert isinstance(device.linear(torch.randn(8, 4)), HalfWeightLinear)
    assert isinstance(device.linear(torch.randn(8, 4), many_rows=True), PackedLinear)
    assert (device.dtype, device.weight_bytes) == (torch.float32, 2)


def test_auto_takes_16_bit_weights_where_they_can_be_multiplied(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert open_device("auto", "auto").weight_bytes == 2
    assert "weights of 16 bits (float32 where rows are many), arithmetic float32" in caplog.text
    engine = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "qnnpack"  # as on a processor without fbgemm
        assert open_device("auto", "auto").weight_bytes == 4
        with pytest.raises(InvalidRequest, match="needs fbgemm"):
            open_device("cpu", "weights16")
    finally:
        torch.backends.quantized.engine = engine
