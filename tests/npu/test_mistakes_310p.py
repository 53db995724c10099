"""Mistakes with the operators of the 310P: each is caught."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_npu

from glm4v.device import DeviceOptions, open_device
from glm4v.errors import ConfigurationError
from tests.npu.pretend.contracts import Refused
from tests.npu.pretend.emulation import Emulation
from tests.npu.test_mistakes import MASK, NPU, fused, half, rotary, scatter

pytestmark = pytest.mark.chip("Ascend310P")


def nz_cache(block_size: int = 128) -> torch.Tensor:
    """Of two heads, in the 310P's format."""
    shape = (4, 2 * 128 // 16, block_size, 16)
    cache: torch.Tensor = torch_npu.empty_with_format(
        shape, dtype=torch.float16, device=NPU, acl_format=29
    )
    return cache.zero_()


def paged(**changed: Any) -> None:
    """A right decode step of two sequences on a 310P, with some arguments changed."""
    arguments = {
        "query": half(2, 8, 128),
        "key_cache": nz_cache(),
        "value_cache": nz_cache(),
        "block_table": torch.zeros((2, 3), dtype=torch.int32, device=NPU),
        "context_lens": torch.tensor([5, 200], dtype=torch.int32).to(NPU),
        "num_heads": 8,
        "num_kv_heads": 2,
        "scale_value": 0.1,
        "out": half(2, 8, 128),
    }
    torch_npu._npu_paged_attention(**(arguments | changed))


def splitfuse(**changed: Any) -> None:
    """The same for a step with a prefill of three tokens."""
    causal = torch.full((MASK, MASK), -10000.0, dtype=torch.float16).triu(1).to(NPU)
    arguments = {
        "query": half(4, 8, 128),
        "key_cache": nz_cache(),
        "value_cache": nz_cache(),
        "block_table": torch.zeros((2, 3), dtype=torch.int32, device=NPU),
        "context_lens": torch.tensor([5, 200], dtype=torch.int32).to(NPU),
        "mask": causal,
        "seq_len": torch.tensor([3, 1], dtype=torch.int32),
        "num_heads": 8,
        "num_kv_heads": 2,
        "scale_value": 0.1,
        "mask_type": 5,
        "out": half(4, 8, 128),
    }
    torch_npu._npu_paged_attention_splitfuse_v2(**(arguments | changed))


def reshape(**changed: Any) -> None:
    arguments = {
        "key": half(3, 2, 128),
        "value": half(3, 2, 128),
        "key_cache": nz_cache(),
        "value_cache": nz_cache(),
        "slot_indices": torch.tensor([0, 1, 2], dtype=torch.int32).to(NPU),
    }
    torch_npu._npu_reshape_and_cache(**(arguments | changed))


def test_right_calls_pass(emulation: Emulation) -> None:
    paged()
    splitfuse()
    reshape()
    rotary()


@pytest.mark.parametrize(
    ("call", "error", "rule"),
    [
        (lambda: paged(n_heads=8), RuntimeError, "n_heads"),
        (lambda: paged(query=half(2, 8, 128).float()), Refused, "one half dtype"),
        (lambda: paged(num_heads=6), Refused, "num_heads"),
        (lambda: paged(num_kv_heads=4), Refused, "tiles of 16"),
        (lambda: splitfuse(mask=None), Refused, "needs the mask of 2048 x 2048"),
        (lambda: splitfuse(mask=half(MASK, MASK)), Refused, "mask values"),
        (lambda: splitfuse(mask_type=0), Refused, "mask_type 5"),
        (lambda: splitfuse(seq_len=torch.tensor([1, 1], dtype=torch.int32)), Refused, "sums to T"),
        (lambda: splitfuse(seq_len=torch.tensor([3, 1])), Refused, "seq_len is int32"),
        (
            lambda: splitfuse(seq_len=torch.tensor([3, 1], dtype=torch.int32).to(NPU)),
            RuntimeError,
            "seq_len on the host",
        ),
        (
            lambda: paged(context_lens=torch.tensor([5, 200], dtype=torch.int32)),
            RuntimeError,
            "on the NPU and on the CPU",
        ),
        (
            lambda: paged(query=half(3, 8, 128), out=half(3, 8, 128)),
            Refused,
            "one token of each sequence",
        ),
        (
            lambda: paged(context_lens=torch.tensor([5, 500], dtype=torch.int32).to(NPU)),
            Refused,
            "too narrow",
        ),
        (
            lambda: paged(key_cache=nz_cache(32), value_cache=nz_cache(32)),
            Refused,
            "blocks of 64 or 128",
        ),
        (
            lambda: paged(key_cache=half(4, 16, 128, 16), value_cache=half(4, 16, 128, 16)),
            Refused,
            "format 29",
        ),
        (
            lambda: reshape(key_cache=half(4, 16, 128, 16), value_cache=half(4, 16, 128, 16)),
            Refused,
            "format 29",
        ),
        (
            lambda: reshape(slot_indices=torch.tensor([0, 1, 512], dtype=torch.int32).to(NPU)),
            Refused,
            "within the cache",
        ),
        (lambda: rotary(rotary_mode="interleave"), Refused, "'half' alone"),
    ],
)
def test_it_is_refused(
    call: Callable[[], Any], error: type[Exception], rule: str, emulation: Emulation
) -> None:
    with pytest.raises(error, match=rule):
        call()


@pytest.mark.parametrize("call", [fused, scatter])
def test_the_operators_of_the_910b_are_refused(
    call: Callable[[], Any], emulation: Emulation
) -> None:
    with pytest.raises(Refused, match=r"310P|A2 and A3"):
        call()


def test_bfloat16_is_refused(emulation: Emulation) -> None:
    with pytest.raises(ConfigurationError, match="Ascend310P3 does not compute in bfloat16"):
        open_device(DeviceOptions("npu", "bfloat16"))
    with pytest.raises(Refused, match="no bfloat16"):
        half(2).bfloat16() + 1
