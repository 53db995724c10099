"""Products with 8-bit weights by the weight-only operator, which computes

    y = x @ ((weight + antiquant_offset) * antiquant_scale) + bias

with a weight [in, out]; scales and offsets, in the dtype of x, are one for each output ("per
channel") or, on the 910B alone, one for each group of inputs too.

Sources: the help of npu_weight_quant_batchmatmul in torch_npu 2.13.0, and that of
aclnnWeightQuantBatchMatmulV2, which it calls. The help allows weights in NZ format in compiled
graphs of torchair alone, which this project has none of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
import torch_npu
from torch.nn import functional

from glm4v.checkpoint.quantized import QuantizedWeight
from glm4v.device.npu.chip import Chip, check_group
from glm4v.errors import ConfigurationError

LIMIT = 65535  # inputs, and outputs, of one call
_TILE = 16  # outputs that the chip computes together: pieces are whole tiles


class Int8Product:
    """x @ weight.T + bias: one call, or one for each piece of an output layer beyond the limit.

    The columns of an output are independent, so pieces give the numbers of the whole. Raises
    ConfigurationError for a weight that the chip's operator does not take.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: torch.Tensor | None,
        *,
        dtype: torch.dtype,
        device: torch.device,
        chip: Chip,
    ) -> None:
        weight = _in_whole_groups(weight)
        _check(weight, chip, dtype)
        self._inputs = weight.shape[1]
        self._group = weight.group if weight.scales.shape[1] > 1 else 0
        keeps_rows = not (self._group or chip.is_310p)
        self._pieces = [
            _Piece.of(part, own, dtype, device, keeps_rows=keeps_rows)
            for part, own in _split_rows(weight, bias)
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        flat = x.flatten(0, -2)
        if (missing := self._inputs - flat.shape[1]) > 0:
            flat = functional.pad(flat, (missing, 0))
        results = [
            torch_npu.npu_weight_quant_batchmatmul(
                flat,
                piece.weight,
                piece.scale,
                piece.offset,
                bias=piece.bias,
                antiquant_group_size=self._group,
            )
            for piece in self._pieces
        ]
        y: torch.Tensor = results[0] if len(results) == 1 else torch.cat(results, dim=-1)
        return y.view(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a weight as the operator takes them, on the device."""

    weight: torch.Tensor  # int8 [in, out]
    scale: torch.Tensor  # [groups, out] or [out]
    offset: torch.Tensor | None  # as the scale
    bias: torch.Tensor | None  # [out], float32 beside bfloat16

    @classmethod
    def of(
        cls,
        part: QuantizedWeight,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        *,
        keeps_rows: bool,
    ) -> "_Piece":
        """Laid out on the host: the device never holds a weight twice.

        The help advises the transpose of [out, in] (`keeps_rows`) for scales per channel, and
        [in, out] for groups. A 310P is reported to take [in, out] alone.
        """
        values = part.values.contiguous() if keeps_rows else part.values.t().contiguous()
        values = values.to(device)

        def in_order(each: torch.Tensor) -> torch.Tensor:
            each = each.to(dtype)
            ordered = each.flatten() if each.shape[1] == 1 else each.t().contiguous()
            return ordered.to(device)

        return cls(
            values.t() if keeps_rows else values,
            in_order(part.scales),
            None if part.offsets is None else in_order(-part.offsets),
            bias.float() if bias is not None and dtype == torch.bfloat16 else bias,
        )


def _check(weight: QuantizedWeight, chip: Chip, dtype: torch.dtype) -> None:
    columns, groups = weight.shape[1], weight.scales.shape[1]
    widen = f"set GLM4V_WEIGHT_DTYPE={str(dtype).removeprefix('torch.')}, which widens them"
    check_group(chip, weight.group if groups > 1 else None, widen)
    if columns > LIMIT:
        raise ConfigurationError(
            f"8-bit weights have {columns} inputs, the NPU multiplies with up to {LIMIT}; raise "
            f"GLM4V_TENSOR_PARALLEL, or {widen}"
        )


def _in_whole_groups(weight: QuantizedWeight) -> QuantizedWeight:
    """The weight with zeros in front where a rank's part begins inside of a group.

    The operator counts groups from the first input; `__call__` puts zeros in front of x too.
    """
    if weight.lead == 0 or weight.scales.shape[1] == 1:
        return weight
    return replace(weight, values=functional.pad(weight.values, (weight.lead, 0)), lead=0)


def _split_rows(
    weight: QuantizedWeight, bias: torch.Tensor | None
) -> Iterator[tuple[QuantizedWeight, torch.Tensor | None]]:
    """As few pieces as the limit allows, all of about one size."""
    count = weight.shape[0]
    pieces = 1 if count <= LIMIT else -(-count // (LIMIT - LIMIT % _TILE))
    rows = -(-count // (pieces * _TILE)) * _TILE
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        yield weight.map_rows(itemgetter(part)), None if bias is None else bias[part]
