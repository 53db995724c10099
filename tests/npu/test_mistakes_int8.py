"""Mistakes with the product of 8-bit weights: each is caught."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_npu

from tests.npu.pretend.contracts import Refused
from tests.npu.pretend.emulation import Emulation
from tests.npu.test_int8 import IS_310P, on_310p, on_910b
from tests.npu.test_mistakes import NPU, half


def integers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int8, device=NPU)


def call(**changed: Any) -> None:
    """A right call per channel, which both chips have, with some arguments changed."""
    arguments = {"x": half(5, 96), "weight": integers(96, 48), "antiquant_scale": half(48)}
    torch_npu.npu_weight_quant_batchmatmul(**(arguments | changed))


def grouped(**changed: Any) -> None:
    """The same with groups of 64."""
    call(**({"antiquant_scale": half(2, 48), "antiquant_group_size": 64} | changed))


def test_right_calls_pass(emulation: Emulation) -> None:
    call()
    call(weight=integers(48, 96).t())
    call(antiquant_offset=half(48), bias=half(48))
    call(x=half(1, 65535), weight=integers(65535, 48))
    call(weight=integers(96, 65535), antiquant_scale=half(65535))
    if not IS_310P:
        grouped(antiquant_offset=half(2, 48))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda: call(weight=integers(48, 96)), r"the weight \[K, N\]"),
        (lambda: call(x=half(2, 5, 96)), r"x is \[M, K\]"),
        (lambda: call(x=half(0, 96)), "no empty"),
        (lambda: call(x=half(5, 96).float()), "x in float16 or bfloat16"),
        (lambda: call(x=half(5, 192)[:, :96]), "contiguous, or transposed"),
        (lambda: call(weight=integers(96, 96)[:, :48]), "contiguous, or transposed"),
        (lambda: call(weight=half(96, 48)), "weights in int8"),
        (lambda: call(antiquant_scale=half(48).float()), "scales in the dtype of x"),
        (lambda: call(antiquant_scale=half(48).long()), "scales in the dtype of x"),
        (lambda: call(antiquant_scale=half(96)), "scales are"),
        (lambda: call(antiquant_scale=half(48, 1)), "scales are"),
        (lambda: call(antiquant_offset=half(48).float()), "offsets in the dtype"),
        (lambda: call(antiquant_offset=half(1)), "an offset for each scale"),
        (lambda: call(bias=half(48).float()), "a bias in float16"),
        (lambda: call(bias=half(96)), "a bias is"),
        (lambda: call(bias=half(96)[::2]), "a contiguous bias"),
        (lambda: call(inner_precise=1), "high precision"),
        (lambda: call(quant_scale=half(48).float()), "no quant_scale"),
        (
            lambda: call(weight=integers(96, 65536), antiquant_scale=half(65536)),
            "at most 65535",
        ),
        (lambda: call(x=half(1, 65536), weight=integers(65536, 48)), "at most 65535"),
    ],
)
def test_it_is_refused(broken: Callable[[], None], rule: str, emulation: Emulation) -> None:
    with pytest.raises(Refused, match=rule):
        broken()


@on_910b
@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda: grouped(antiquant_group_size=48), "multiples of 32"),
        (lambda: grouped(antiquant_group_size=96), "multiples of 32 < K"),
        (lambda: grouped(antiquant_group_size=32), r"scales are \[K / group, N\]"),
        (lambda: grouped(antiquant_scale=half(48, 2)), r"scales are \[K / group, N\]"),
        (lambda: grouped(antiquant_group_size=0), r"scales are \[N\]"),
        (lambda: grouped(antiquant_offset=half(48)), "an offset for each scale"),
        (
            lambda: call(
                x=half(5, 96).bfloat16(), antiquant_scale=half(48).bfloat16(), bias=half(48)
            ),
            "beside bfloat16 in float32",
        ),
    ],
)
def test_it_is_refused_on_a_910b(
    broken: Callable[[], None], rule: str, emulation: Emulation
) -> None:
    with pytest.raises(Refused, match=rule):
        broken()


@on_310p
@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (grouped, "a 310P has no groups"),
        (lambda: call(antiquant_scale=half(1, 48)), r"scales are \[N\] on a 310P"),
        (lambda: call(antiquant_scale=half(96)[::2]), "contiguous scales"),
        (
            lambda: call(
                weight=torch_npu.empty_with_format(
                    (96, 48), dtype=torch.int8, device=NPU, acl_format=29
                )
            ),
            "NZ in compiled graphs alone",
        ),
    ],
)
def test_it_is_refused_on_a_310p(
    broken: Callable[[], None], rule: str, emulation: Emulation
) -> None:
    with pytest.raises(Refused, match=rule):
        broken()


def test_a_scale_on_the_host_is_refused(emulation: Emulation) -> None:
    with pytest.raises(RuntimeError, match="on the NPU and on the CPU"):
        call(antiquant_scale=torch.zeros(48, dtype=torch.float16))
