"""Products with 8-bit weights in the shapes of GLM-4V-9B: whether they are right, and how fast."""

from collections.abc import Iterable, Iterator

import torch

from bench.geometry import GLM_4V_9B
from bench.gpu_ours import median_seconds
from glm4v.checkpoint.quantized import QuantizedWeight, quantize
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.tensor_shapes import expected_tensors
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.linear import Linear
from glm4v.errors import ConfigurationError
from tests.npu.check.comparison import TOLERANCE
from tests.npu.check.report import Failed, table

FORMS = ("int8", "int8-channel")
ROWS = (1, 32, 512)
REPEATS = 16
COLUMNS = ("weights", "[out, in]", "rows", "difference / tolerance", "8 bits", "16 bits")
_LAYER = "transformer.encoder.layers.0."
_OUTPUT = "transformer.output_layer.weight"


def products(dtype: str, spec: ModelSpec = GLM_4V_9B) -> Iterable[str]:
    """Each matrix of a layer and the output layer, beside the same values in 16 bits."""
    rows, is_wrong = [], False
    for form, device in _forms(dtype):
        for shape in _shapes(spec):
            assert device.quantization is not None
            weight = quantize(torch.randn(shape) * 0.02, device.quantization)
            for count, difference, ours, plain in _compare(device, weight):
                is_wrong |= not difference <= 1
                times = (f"{seconds * 1e6:.0f} µs" for seconds in (ours, plain))
                rows.append((form, str(list(shape)), str(count), f"{difference:.2f}", *times))
    lines = list(table(COLUMNS, rows))
    if is_wrong:
        raise Failed(lines)
    return lines


def _forms(dtype: str) -> Iterator[tuple[str, Device]]:
    """Those that the chip has."""
    for form in FORMS:
        try:
            yield form, open_device(DeviceOptions("npu", dtype, form))
        except ConfigurationError:  # groups on a 310P
            assert form != FORMS[-1]


def _shapes(spec: ModelSpec) -> list[tuple[int, int]]:
    shapes = {
        (shape[0], shape[1])
        for name, shape in expected_tensors(spec)
        if len(shape) == 2 and (name == _OUTPUT or name.startswith(_LAYER))
    }
    return sorted(shapes)


@torch.inference_mode()
def _compare(device: Device, weight: QuantizedWeight) -> Iterator[tuple[int, float, float, float]]:
    """Rows, the difference as a share of its tolerance, and seconds with 8 and with 16 bits."""
    plain = device.linear(weight.dequantize(device.dtype).to(device.torch_device))
    ours = device.linear(weight)
    for count in ROWS:
        x = torch.randn(count, weight.shape[1]).to(device.dtype).to(device.torch_device)
        wanted, got = plain(x).cpu().double(), ours(x).cpu().double()
        difference = float((wanted - got).abs().max() / wanted.abs().max())
        share = difference / TOLERANCE[device.dtype]
        yield count, share, _seconds(ours, x), _seconds(plain, x)


def _seconds(product: Linear, x: torch.Tensor) -> float:
    return median_seconds(lambda: product(x)[:, :1].cpu(), REPEATS)
