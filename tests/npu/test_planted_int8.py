"""Mistakes around the product of 8-bit weights, planted one at a time: tests of the suite notice.

A call that the operator refuses is in test_mistakes_int8; these give it another weight, scale,
offset or bias, or another part of them, most of which it takes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_npu

from glm4v.checkpoint.quantized import CHANNELS, QuantizedWeight, quantize
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device
from glm4v.device.npu import device, int8_product
from glm4v.device.npu.int8_product import Int8Product
from glm4v.device.npu.linear import FRACTAL_NZ
from tests.npu import test_int8, test_int8_files
from tests.npu.pretend.contracts import Refused
from tests.npu.pretend.emulation import Emulation
from tests.npu.test_int8 import NPU, QUANTIZATIONS, on_310p, on_910b

Plant = Callable[[pytest.MonkeyPatch], None]
Run = Callable[[Device, Emulation, Path], None]  # a test of the suite
FORM = QUANTIZATIONS[0]  # groups, on a 310P channels


def operator(**changes: Callable[[Any], Any]) -> Plant:
    """Arguments of the operator changed, those that are given."""
    names = ("x", "weight", "antiquant_scale", "antiquant_offset")

    def plant(patch: pytest.MonkeyPatch) -> None:
        multiply = torch_npu.npu_weight_quant_batchmatmul

        def changed(*tensors: Any, **options: Any) -> Any:
            given = dict(zip(names, tensors, strict=True)) | options
            for name, change in changes.items():
                given[name] = None if given[name] is None else change(given[name])
            return multiply(**given)

        patch.setattr(torch_npu, "npu_weight_quant_batchmatmul", changed)

    return plant


def pieces(shift: int = 0, *, bias_shift: int = 0, whole: bool = False) -> Plant:
    """An output layer split in two whose second piece begins some rows early, or not split."""

    def split(
        weight: QuantizedWeight, bias: torch.Tensor | None
    ) -> Iterator[tuple[QuantizedWeight, torch.Tensor | None]]:
        count = len(weight.values)
        half = count if whole else count // 2
        for start in range(0, count, half):
            rows, of_bias = (
                slice(max(0, start - each), max(0, start - each) + half)
                for each in (shift, bias_shift)
            )
            part = weight.map_rows(itemgetter(rows))
            yield part, None if bias is None else bias[of_bias]

    return lambda patch: patch.setattr(int8_product, "_split_rows", split)


def bias_twice(patch: pytest.MonkeyPatch) -> None:
    """Inside of the operator, and once more behind it."""
    multiply = Int8Product.__call__

    def changed(product: Int8Product, x: torch.Tensor) -> torch.Tensor:
        y = multiply(product, x)
        biases = [piece.bias for piece in product._pieces if piece.bias is not None]
        return y + torch.cat(biases).to(y.dtype) if biases else y

    patch.setattr(Int8Product, "__call__", changed)


def groups_taken(patch: pytest.MonkeyPatch) -> None:
    """Whatever the chip, and whatever the group."""
    patch.setattr(int8_product, "check_group", lambda *_: None)
    patch.setattr(device, "check_group", lambda *_: None)


def columns_of_first_groups(patch: pytest.MonkeyPatch) -> None:
    """A rank's columns with the scales of the first rank's."""

    def changed(weight: QuantizedWeight, start: int, end: int) -> QuantizedWeight:
        part = columns(weight, start, end)
        groups = part.scales.shape[1]
        return replace(part, scales=weight.scales[:, :groups])

    columns = QuantizedWeight.columns
    patch.setattr(QuantizedWeight, "columns", changed)


def scales_of_the_first_rows(patch: pytest.MonkeyPatch) -> None:
    """Rows that are chosen, or put in order, without their scales."""

    def changed(weight: QuantizedWeight, change: Callable[..., torch.Tensor]) -> QuantizedWeight:
        part = map_rows(weight, change)
        count = min(len(part.scales), len(weight.scales))
        scales = part.scales.clone()
        scales[:count] = weight.scales[:count]
        return replace(part, scales=scales)

    map_rows = QuantizedWeight.map_rows
    patch.setattr(QuantizedWeight, "map_rows", changed)


def filled_up_behind(patch: pytest.MonkeyPatch) -> None:
    """A part that begins inside of a group, its zeros on the wrong side."""

    def changed(weight: QuantizedWeight) -> QuantizedWeight:
        values = torch.nn.functional.pad(weight.values, (0, weight.lead))
        return replace(weight, values=values, lead=0)

    patch.setattr(int8_product, "_in_whole_groups", changed)


def all_quantized(patch: pytest.MonkeyPatch) -> None:
    """A layer that the file leaves in 16 bits quantized beside the others."""

    def changed(weights: Weights, name: str, **part: Any) -> Any:
        matrix = read_matrix(weights, name, **part)
        if isinstance(matrix, QuantizedWeight):
            return matrix
        assert isinstance(matrix, torch.Tensor)
        return quantize(matrix.cpu().float(), CHANNELS)

    read_matrix = Weights.read_matrix
    patch.setattr(Weights, "read_matrix", changed)


def never_in_nz(patch: pytest.MonkeyPatch) -> None:
    """A matrix in 16 bits left in ND."""
    patch.setattr(torch_npu, "npu_format_cast", lambda tensor, _: tensor)


def a_product(_: Device, emulation: Emulation, __: Path) -> None:
    test_int8.test_a_product_is_that_of_the_values((48, 320), FORM, "float16", emulation)


def offsets(_: Device, emulation: Emulation, __: Path) -> None:
    test_int8.test_offsets_of_a_file_are_negated(FORM, emulation)


def an_output_layer(_: Device, emulation: Emulation, __: Path) -> None:
    test_int8.test_an_output_layer_beyond_the_limit_is_split(75776, 2, FORM, emulation)


def groups_on_a_310p(npu: Device, _: Emulation, __: Path) -> None:
    test_int8.test_groups_on_a_310p_are_one_line(npu)


def a_part_of_a_rank(_: Device, emulation: Emulation, __: Path) -> None:
    test_int8.test_a_ranks_part_may_begin_inside_of_a_group(False, emulation)


def a_file(name: str) -> Run:
    return lambda _, emulation, folder: test_int8_files.test_they_are_multiplied_as_they_are(
        name, emulation, folder
    )


def parts_of_a_file(name: str) -> Run:
    return lambda npu, emulation, folder: test_int8_files.test_parts_of_ranks_add_up_to_the_whole(
        name, 2, npu, emulation, folder
    )


def in_nz(weight: torch.Tensor) -> torch.Tensor:
    """Of its shape: it is refused for its format."""
    nz: torch.Tensor = torch_npu.empty_with_format(
        weight.shape, dtype=torch.int8, device=NPU, acl_format=FRACTAL_NZ
    )
    return nz


PLANTED: dict[str, tuple[Plant, Run, str | None]] = {
    "offset as in the file": (operator(antiquant_offset=torch.neg), offsets, None),
    "no offset": (operator(antiquant_offset=lambda _: None), offsets, None),
    "scales in float32": (
        operator(antiquant_scale=torch.Tensor.float), a_product, "scales in the dtype of x",
    ),
    "weight as [out, in]": (
        operator(weight=lambda each: each.t().contiguous().t().contiguous().view(each.shape[::-1])),
        a_product,
        r"the weight \[K, N\]",
    ),
    "output layer in one piece": (pieces(whole=True), an_output_layer, "at most 65535"),
    "second piece a row early": (pieces(1), an_output_layer, None),
    "bias of the second piece a row early": (pieces(bias_shift=1), an_output_layer, None),
    "bias twice": (bias_twice, a_product, None),
    "no bias": (operator(bias=lambda _: None), a_product, None),
    "layer left in 16 bits quantized": (all_quantized, a_file("gptq-8-channel"), None),
    "scales of other rows": (scales_of_the_first_rows, a_file("msmodelslim-channel"), None),
}  # fmt: skip
ON_910B: dict[str, tuple[Plant, Run, str | None]] = {
    "scales [out, groups]": (
        operator(antiquant_scale=lambda each: each.t().contiguous()),
        a_product,
        r"scales are \[K / group, N\]",
    ),
    "scales [out, groups] read as [groups, out]": (
        operator(antiquant_scale=lambda each: each.t().reshape(each.shape)), a_product, None,
    ),
    "no size of groups": (
        operator(antiquant_group_size=lambda _: 0), a_product, r"scales are \[N\]",
    ),
    "scales of the first groups": (columns_of_first_groups, a_part_of_a_rank, None),
    "part filled up behind": (filled_up_behind, a_part_of_a_rank, None),
    "part of a file filled up behind": (
        filled_up_behind, parts_of_a_file("msmodelslim-groups"), None,
    ),
}  # fmt: skip
ON_310P: dict[str, tuple[Plant, Run, str | None]] = {
    "groups": (groups_taken, groups_on_a_310p, None),
    "groups of a file": (groups_taken, a_file("pack-8-groups"), "a 310P has no groups"),
    "weight in NZ": (operator(weight=in_nz), a_product, "NZ in compiled graphs alone"),
    "layer left in 16 bits not in NZ": (never_in_nz, a_file("gptq-8-channel"), None),
}


def assert_noticed(
    planted: tuple[Plant, Run, str | None], npu: Device, emulation: Emulation, folder: Path
) -> None:
    """With the mistake the test fails, or the operator refuses its call."""
    plant, run, rule = planted
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception, Refused), match=rule):
            run(npu, emulation, folder)


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_noticed(name: str, npu: Device, emulation: Emulation, tmp_path: Path) -> None:
    assert_noticed(PLANTED[name], npu, emulation, tmp_path)


@on_910b
@pytest.mark.parametrize("name", ON_910B)
def test_it_is_noticed_on_a_910b(
    name: str, npu: Device, emulation: Emulation, tmp_path: Path
) -> None:
    assert_noticed(ON_910B[name], npu, emulation, tmp_path)


@on_310p
@pytest.mark.parametrize("name", ON_310P)
def test_it_is_noticed_on_a_310p(
    name: str, npu: Device, emulation: Emulation, tmp_path: Path
) -> None:
    assert_noticed(ON_310P[name], npu, emulation, tmp_path)
