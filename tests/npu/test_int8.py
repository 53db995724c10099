"""8-bit weights: products and the whole model against what the weights stand for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch_npu

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization, QuantizedWeight, quantize
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.npu.chip import chip_of
from glm4v.device.npu.int8_product import Int8Product
from glm4v.errors import ConfigurationError
from tests.npu.conftest import DTYPES, SOC
from tests.npu.pretend.emulation import Emulation
from tests.npu.required import LANGUAGE, REPLAYED
from tests.npu.test_failures import held_and_peak
from tests.npu.test_language import WHOLE
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case
from tests.parity.test_int8_weights import PlainDevice

OPERATOR = "npu::npu_weight_quant_batchmatmul"
PRODUCTS_IN_16_BITS = {"aten::matmul", "aten::mm", "aten::addmm", "aten::linear"}
NPU = torch.device("npu:0")
IS_310P = SOC.startswith("Ascend310P")
QUANTIZATIONS = [CHANNELS] if IS_310P else [GROUPS, CHANNELS]
# Of the largest value of a result: scales, weights and results are rounded to the dtype of x.
ROUNDING = {"float16": 2**-9, "bfloat16": 2**-6}
# Relative distance of logits; 16-bit weights are off by 0.0008 and 0.0065, rounding to 8 bits moves
# them by 0.0115.
ARITHMETIC = {"float16": 0.002, "bfloat16": 0.01}
on_910b = pytest.mark.chip("Ascend910B")
on_310p = pytest.mark.chip("Ascend310P")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def product_of(
    weight: QuantizedWeight, dtype: torch.dtype = torch.float16, bias: torch.Tensor | None = None
) -> Int8Product:
    on_device = None if bias is None else bias.to(dtype).to(NPU)
    return Int8Product(weight, on_device, dtype=dtype, device=NPU, chip=chip_of(SOC))


def share(result: torch.Tensor, exact: torch.Tensor, dtype: str = "float16") -> float:
    """The largest difference, as a share of what rounding explains."""
    difference = (result.cpu().double() - exact.double()).abs().max() / exact.abs().max()
    return float(difference) / ROUNDING[dtype]


def error(
    weight: QuantizedWeight, dtype: str = "float16", bias: torch.Tensor | None = None
) -> float:
    """`share` of a product with random rows."""
    half: torch.dtype = getattr(torch, dtype)
    x = random(3, weight.shape[1]).to(half)
    exact = x.double() @ weight.dequantize().double().T
    if bias is not None:
        exact += bias.to(half).double()
    result = product_of(weight, half, bias)(x.to(NPU))
    assert result.dtype == half
    return share(result, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
# Whole groups; a last group of 32; as many inputs as outputs; and one group, which is a channel.
@pytest.mark.parametrize("shape", [(48, 320), (40, 96), (192, 192), (32, 64)])
def test_a_product_is_that_of_the_values(
    shape: tuple[int, int], quantization: Quantization, dtype: str, emulation: Emulation
) -> None:
    weight = quantize(random(*shape), quantization)
    assert error(weight, dtype, bias=random(shape[0])) < 1
    assert error(weight, dtype) < 1
    assert emulation.calls[OPERATOR] == 2


def test_leading_dimensions_stay(emulation: Emulation) -> None:
    x = random(2, 3, 64).half()
    result = product_of(quantize(random(48, 64), CHANNELS))(x.to(NPU))
    assert result.shape == (2, 3, 48)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, ...]]:
    """The x, weight and scale of each call of the operator."""
    multiply, found = torch_npu.npu_weight_quant_batchmatmul, []

    def watched(*tensors: Any, **options: Any) -> torch.Tensor:
        found.append(tensors[:3])
        result: torch.Tensor = multiply(*tensors, **options)
        return result

    monkeypatch.setattr(torch_npu, "npu_weight_quant_batchmatmul", watched)
    return found


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
def test_the_layout_is_the_one_that_the_help_advises(
    quantization: Quantization, given: list[tuple[torch.Tensor, ...]], emulation: Emulation
) -> None:
    """Of scales per channel on a 910B the transpose of [out, in]; and nothing is copied."""
    product = product_of(quantize(random(48, 128), quantization))
    x = random(3, 128).half().to(NPU)
    before = set(emulation.calls)
    product(x)
    assert set(emulation.calls) - before == {OPERATOR}
    ((_, weight, scale),) = given
    is_transposed = not (quantization.group or IS_310P)
    assert weight.stride() == ((1, 128) if is_transposed else (48, 1))
    assert scale.shape == ((2, 48) if quantization.group else (48,))


def test_a_part_of_one_group_is_not_filled_up(
    given: list[tuple[torch.Tensor, ...]], emulation: Emulation
) -> None:
    """One scale for each output, wherever it begins; also of a width that groups may not have."""
    weight = quantize(random(48, 192))
    assert error(weight.columns(72, 120)) < 1
    assert error(quantize(random(32, 48), Quantization(48))) < 1
    assert [tuple(weight.shape) for _, weight, _ in given] == [(48, 48), (48, 32)]


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
def test_offsets_of_a_file_are_negated(quantization: Quantization, emulation: Emulation) -> None:
    """The file takes an offset away from an integer, the operator adds one."""
    weight = quantize(random(48, 192), quantization)
    offsets = random(*weight.scales.shape).mul_(20).round_()
    asymmetric = replace(weight, offsets=offsets)
    assert error(asymmetric) < 1
    x = random(3, 192).half()
    added = replace(weight, offsets=-offsets).dequantize()
    result = product_of(asymmetric)(x.to(NPU)).cpu().float()
    assert (result - x.float() @ added.T).abs().max() > 100 * ROUNDING["float16"]


@on_910b
@pytest.mark.parametrize("has_offsets", [False, True])
def test_a_ranks_part_may_begin_inside_of_a_group(has_offsets: bool, emulation: Emulation) -> None:
    """The operator counts groups from the first input; parts of 48 and of 96."""
    weight = quantize(random(32, 192))
    if has_offsets:
        weight = replace(weight, offsets=random(32, 3).mul_(20).round_())
    spans = [*((48 * rank, 48 * rank + 48) for rank in range(4)), (1, 97), (96, 192)]
    parts = [weight.columns(*span) for span in spans]
    assert [part.lead for part in parts] == [0, 48, 32, 16, 1, 32]
    exact, x = weight.dequantize(), random(3, 192).half()
    for part, (start, end) in zip(parts, spans, strict=True):
        own = x[:, start:end].contiguous()
        result = product_of(part)(own.to(NPU))
        assert share(result, own.float() @ exact[:, start:end].T) < 1


# That of GLM-4V-9B, a rank's part of it, and the ends of what one and two calls take.
SPLIT = [(151552, 3), (75776, 2), (37888, 1), (65535, 1), (131040, 2), (131041, 3)]


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
@pytest.mark.parametrize(("rows", "calls"), SPLIT)
def test_an_output_layer_beyond_the_limit_is_split(
    rows: int, calls: int, quantization: Quantization, emulation: Emulation
) -> None:
    repeated = quantize(random(1024, 96), quantization).map_rows(
        lambda each: each.repeat(-(-rows // 1024), 1)[:rows] * 1
    )
    bias = random(rows)
    assert error(repeated, bias=bias) < 1
    assert emulation.calls[OPERATOR] == calls


def logits(checkpoint: Checkpoint, device: Device) -> torch.Tensor:
    """Of the demo model, for a prompt of another: [21, vocabulary]."""
    golden = open_golden("bundled")
    name = next(each for each in cases(golden) if f"{each}/vision_embeddings" not in golden)
    case = read_case(golden, name, checkpoint.spec)
    with torch.inference_mode():
        model = load_model(checkpoint, device)
    (played,) = play(model, device, checkpoint.spec, [case], chunk=WHOLE, block_size=128)
    return played.logits.float().cpu()


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("float16", each) for each in QUANTIZATIONS] + [(each, GROUPS) for each in DTYPES[1:]],
    ids=str,
)
def test_the_models_logits_are_those_of_the_values(
    dtype: str, quantization: Quantization, emulation: Emulation
) -> None:
    """Captured decode steps included, beside the CPU with the same integers in float32."""
    checkpoint = Checkpoint.open(DEMO_MODEL)
    name = "int8" if quantization.group else "int8-channel"
    ours = logits(checkpoint, open_device(DeviceOptions("npu", dtype, name)))
    calls = set(emulation.calls)
    plain = PlainDevice(quantization)
    plain.quantizes_embeddings = False  # a CPU alone looks words up in 8 bits
    exact = logits(checkpoint, plain)
    assert (ours - exact).norm() < ARITHMETIC[dtype] * exact.norm()
    assert calls >= LANGUAGE[SOC] - {"npu::npu_format_cast"} | REPLAYED[SOC] | {OPERATOR}
    assert not calls & PRODUCTS_IN_16_BITS, "a matrix is in 16 bits"


@on_310p
def test_groups_on_a_310p_are_one_line(npu: Device) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_device(DeviceOptions("npu", "float16", "int8"))
    assert str(refused.value) == (
        f"{SOC} multiplies 8-bit weights with one scale for each output, these have one for 64 "
        "inputs; set GLM4V_WEIGHT_DTYPE=int8-channel"
    )
    widens = "one for 64 inputs; set GLM4V_WEIGHT_DTYPE=float16, which widens them"
    with pytest.raises(ConfigurationError, match=widens):
        product_of(quantize(random(32, 128)))


@on_910b
def test_groups_of_another_step_are_one_line(npu: Device) -> None:
    with pytest.raises(ConfigurationError, match="a multiple of 32 inputs, these have one for 48"):
        product_of(quantize(random(32, 96), Quantization(48)))


def test_more_inputs_than_the_operator_takes_are_one_line(
    npu: Device, emulation: Emulation
) -> None:
    product_of(quantize(torch.zeros(1, 65535), CHANNELS))
    with pytest.raises(ConfigurationError, match=r"65600 inputs, .* up to 65535; raise GLM4V_TENS"):
        product_of(quantize(torch.zeros(1, 65600), CHANNELS))


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
def test_the_device_says_what_it_stores(quantization: Quantization, npu: Device) -> None:
    name, per = ("int8", "group") if quantization.group else ("int8-channel", "channel")
    device = open_device(DeviceOptions("npu", "float16", name))
    assert device.description == f"{SOC}, float16, weights int8 per {per}"
    assert device.quantization == quantization


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
def test_memory_is_counted_as_it_is_taken(
    quantization: Quantization, npu: Device, emulation: Emulation
) -> None:
    """One product's by the allocator: 8 bits and scales of 16, never a weight beside another."""
    name = "int8" if quantization.group else "int8-channel"
    device = open_device(DeviceOptions("npu", "float16", name))
    weight = quantize(random(512, 2048), quantization)
    with held_and_peak() as memory:
        product = device.linear(weight)
    assert product is not None  # alive when the memory was counted
    counted = 512 * (2048 + 2 * weight.scales.shape[1])
    assert counted <= memory["held"] <= 1.002 * counted  # the allocator rounds up
    assert memory["peak"] == memory["held"]
    checkpoint = Checkpoint.open(DEMO_MODEL)
    others = checkpoint.values(vision=False)
    expected = 0
    for rows, columns in checkpoint.matrices().values():
        others -= rows * columns
        expected += rows * (columns + 2 * -(-columns // (quantization.group or columns)))
    assert device.language_bytes(checkpoint) == expected + 2 * others
