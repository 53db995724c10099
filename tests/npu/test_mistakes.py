"""Mistakes that a real device would answer with an error, or with nonsense: each is caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_npu

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import AttentionSegment, Device, DeviceOptions, open_device
from glm4v.device.npu import decoder
from glm4v.errors import ConfigurationError
from tests.npu.pretend.contracts import Refused
from tests.npu.pretend.emulation import Emulation
from tests.npu.test_language import TOLERANCE
from tests.parity.golden_plans import load_model, open_golden, play, read_case

NPU = torch.device("npu:0")
on_910b = pytest.mark.chip("Ascend910B")
MASK = 2048
NEAR = 0.004  # of outputs of order 1, in float16


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16, device=NPU)


def fused(**changed: Any) -> Any:
    """A right call of the fused attention, with some arguments changed."""
    arguments = {
        "query": half(5, 8, 128),
        "key": half(3, 128, 256),
        "value": half(3, 128, 256),
        "atten_mask": torch.ones((MASK, MASK), dtype=torch.int8, device=NPU).triu(1),
        "block_table": torch.zeros((1, 3), dtype=torch.int32, device=NPU),
        "block_size": 128,
        "input_layout": "TND",
        "actual_seq_lengths": [5],
        "actual_seq_lengths_kv": [5],
        "num_heads": 8,
        "num_key_value_heads": 2,
        "scale": 0.1,
        "sparse_mode": 3,
    }
    return torch_npu.npu_fused_infer_attention_score(**(arguments | changed))


def scatter(**changed: Any) -> Any:
    arguments = {
        "key": half(3, 2, 128),
        "value": half(3, 2, 128),
        "key_cache": half(4, 128, 2, 128),
        "value_cache": half(4, 128, 2, 128),
        "slot_mapping": torch.tensor([0, 1, 2], dtype=torch.int32).to(NPU),
        "cache_mode": "Norm",
    }
    return torch_npu.npu_scatter_pa_kv_cache(**(arguments | changed))


def rotary(**changed: Any) -> Any:
    arguments = {
        "query": half(5, 8, 128),
        "key": half(5, 2, 128),
        "cos": half(5, 1, 128),
        "sin": half(5, 1, 128),
        "layout": "TND",
        "rotary_mode": "half",
    }
    return torch_npu.npu_apply_rotary_pos_emb(**(arguments | changed))


@on_910b
def test_right_calls_pass(emulation: Emulation) -> None:
    fused()
    scatter()
    rotary()


@on_910b
@pytest.mark.parametrize(
    ("call", "error", "rule"),
    [
        (lambda: fused(n_heads=8), RuntimeError, "n_heads"),
        (lambda: fused(query=half(5, 8, 128).float()), Refused, "float16 or bfloat16"),
        (lambda: fused(num_heads=6), Refused, "num_heads"),
        (lambda: fused(num_heads=7), Refused, "at most 64 to one"),
        (lambda: fused(atten_mask=None), Refused, "mask of 2048 x 2048"),
        (
            lambda: fused(atten_mask=torch.ones((MASK, MASK), dtype=torch.int8, device=NPU)),
            Refused,
            "1 hides",
        ),
        (
            lambda: fused(key=half(3, 64, 256), value=half(3, 64, 256), block_size=64),
            Refused,
            "block_size",
        ),
        (
            lambda: fused(block_table=torch.zeros((1, 3), dtype=torch.int64, device=NPU)),
            Refused,
            "int32",
        ),
        (
            lambda: fused(block_table=torch.zeros((1, 3), dtype=torch.int32)),
            RuntimeError,
            "on the NPU and on the CPU",
        ),
        (lambda: fused(actual_seq_lengths_kv=[500]), Refused, "too narrow"),
        (lambda: fused(input_layout="BSH"), Refused, "TND"),
        (lambda: scatter(cache_mode="PA_NZ"), Refused, "'PA_NZ' for NZ"),
        (
            lambda: scatter(slot_mapping=torch.tensor([0, 1, 1], dtype=torch.int32).to(NPU)),
            Refused,
            "none twice",
        ),
        (
            lambda: scatter(slot_mapping=torch.tensor([0, 1, 512], dtype=torch.int32).to(NPU)),
            Refused,
            "within the cache",
        ),
        (lambda: scatter(value=half(3, 2, 128).float()), Refused, "one dtype"),
        (lambda: rotary(rotary_mode="interleave"), Refused, "'half' alone"),
        (lambda: rotary(cos=half(5, 1, 64), sin=half(5, 1, 64)), Refused, "all alike"),
        (
            lambda: torch_npu.npu_rms_norm(half(2, 8), torch.zeros(8, dtype=torch.float16)),
            RuntimeError,
            "on the NPU and on the CPU",
        ),
        (lambda: torch_npu.npu_rms_norm(half(2, 8), half(9)), Refused, "as long as"),
        (lambda: torch.hypot(half(2), half(2)), NotImplementedError, "no kernel for aten::hypot"),
        (
            lambda: torch_npu.npu_top_k_top_p(half(2, 8), half(2)),
            Refused,
            "both",
        ),
    ],
)
def test_it_is_refused(
    call: Callable[[], Any], error: type[Exception], rule: str, emulation: Emulation
) -> None:
    with pytest.raises(error, match=rule):
        call()


def test_halves_without_the_lanes_of_glm_are_caught(
    npu: Device,
    emulation: Emulation,
    checkpoint_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GLM rotates neighbours; halves of a head that was not reordered give other logits."""
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    golden = open_golden("bundled")
    case = read_case(golden, "text", checkpoint.spec)

    def difference() -> float:
        with torch.inference_mode():
            model = load_model(checkpoint, npu)
        (played,) = play(model, npu, checkpoint.spec, [case], chunk=10_000, block_size=128)
        return float((played.logits[0].float().cpu() - case.last_logits).abs().max())

    assert difference() < TOLERANCE["float16"]

    def halves(head_dim: int, rotary_dim: int) -> list[int]:
        pairs = rotary_dim // 2
        lanes = [*range(pairs), *range(64, 64 + pairs)]  # dimension i turns with i + pairs
        return lanes + list(range(pairs, pairs + head_dim - rotary_dim))

    monkeypatch.setattr(decoder, "rotary_lanes", halves)
    assert difference() > 10 * TOLERANCE["float16"]


def test_an_unknown_dtype_of_the_chip_is_one_line(npu: Device) -> None:
    with pytest.raises(ConfigurationError, match="does not compute in float32; use GLM4V_DTYPE="):
        open_device(DeviceOptions("npu", "float32"))


def test_a_block_size_that_the_kernels_lack_is_one_line(npu: Device, emulation: Emulation) -> None:
    with pytest.raises(ConfigurationError, match="set GLM4V_BLOCK_SIZE=128"):
        npu.paged_attention().allocate(layers=1, blocks=2, block_size=16, kv_heads=1, head_dim=8)


def test_more_ranks_than_npus_is_one_line(npu: Device) -> None:
    with pytest.raises(ConfigurationError, match="2 ranks need an NPU each, 1 are visible"):
        open_device(DeviceOptions("npu", "float16", local_rank=1, local_size=2))


HEAD_DIM = 112
SIZES = {"layers": 2, "blocks": 8, "block_size": 128, "head_dim": HEAD_DIM}


class Beside:
    """The NPU's attention beside the CPU's, with the same random tokens."""

    def __init__(self, npu: Device, query_heads: int, kv_heads: int) -> None:
        self.ours = npu.paged_attention()
        self.exact = open_device(DeviceOptions("cpu", "float32")).paged_attention()
        for attention in (self.ours, self.exact):
            attention.allocate(kv_heads=kv_heads, **SIZES)
        self._heads = (query_heads, kv_heads, kv_heads)
        self._generator = torch.Generator().manual_seed(0)

    def difference(self, segments: list[AttentionSegment]) -> float:
        """Compute a step in all layers; the largest difference."""
        for attention in (self.ours, self.exact):
            attention.prepare(segments)
        shapes = [(sum(one.query_len for one in segments), n, HEAD_DIM) for n in self._heads]
        differences = []
        for layer in range(SIZES["layers"]):
            heads = [torch.randn(shape, generator=self._generator).half() for shape in shapes]
            given = self.ours.forward(layer, *(part.to(NPU) for part in heads))
            wanted = self.exact.forward(layer, *(part.float() for part in heads))
            differences.append(float((given.float().cpu() - wanted).abs().max()))
        return max(differences)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy tokens in both caches."""
        for attention in (self.ours, self.exact):
            attention.copy_tokens(source, target, count)


@pytest.mark.parametrize("heads", [(8, 2), (4, 1), (8, 8)])
def test_copied_tokens_are_those_of_the_cpu(
    heads: tuple[int, int], npu: Device, emulation: Emulation
) -> None:
    """A block is computed in part, a part of it copied, and gone on with differently."""
    beside = Beside(npu, *heads)
    assert beside.difference([AttentionSegment(250, 0, (5, 2))]) < NEAR
    beside.copy(2, 7, 101)
    both = [AttentionSegment(1, 250, (5, 2)), AttentionSegment(9, 229, (5, 7))]
    assert beside.difference(both) < NEAR
    beside.copy(5, 2, 128)  # a source that is given away in the same step
    assert beside.difference([AttentionSegment(4, 128, (2, 5))]) < NEAR


def test_a_part_of_a_cache_in_nz_is_refused(npu: Device, emulation: Emulation) -> None:
    """Copied as if it were in ND, which on a chip it is not."""
    cache = torch_npu.empty_with_format(
        (4, 16, 128, 16), dtype=torch.float16, device=NPU, acl_format=29
    )
    with pytest.raises(Refused, match="a part of a tensor in NZ"):
        cache[1, :, :5] = cache[2, :, :5]


@pytest.mark.parametrize("heads", [(8, 2), (4, 1), (8, 8)])
def test_attention_of_mixed_steps_is_the_cpus(
    heads: tuple[int, int], npu: Device, emulation: Emulation
) -> None:
    """Prefill, decode and both in one step, over blocks in any order."""
    beside = Beside(npu, *heads)
    tables = ((5, 2, 7), (0, 6), (3, 1))
    lengths = [0, 0, 0]
    for counts in ((200, 3, 0), (1, 1, 140), (1, 1, 1), (17, 1, 1)):
        segments = [
            AttentionSegment(count, length, table)
            for count, length, table in zip(counts, lengths, tables, strict=True)
            if count
        ]
        assert beside.difference(segments) < NEAR
        lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
