"""Captured decode steps on the pretend device, which computes nothing while it captures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Attention, AttentionSegment, Device
from tests.npu.pretend.emulation import Emulation
from tests.parity.golden_plans import (
    GoldenCase,
    allocated_attention,
    cases,
    load_model,
    open_golden,
    play,
    read_case,
)

pytestmark = pytest.mark.chip("Ascend910B")  # the 310P captures nothing

Tokens = list[list[int]]


def greedy(device: Device, folder: Path) -> Tokens:
    """21 tokens of every case, all in one batch; each step is given the golden tokens."""
    checkpoint = Checkpoint.open(folder)
    golden = open_golden("bundled")
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    with torch.inference_mode():
        model = load_model(checkpoint, device)
    played = play(model, device, checkpoint.spec, every[:5], chunk=10_000, block_size=128)
    return [[token.token_id for token in one.tokens] for one in played]


@pytest.fixture
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    return checkpoint_dir("micro-glm4v")


def test_replays_give_the_tokens_of_single_operators(
    npu: Device, emulation: Emulation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glm4v.device.npu import graphs

    captured = greedy(npu, folder)  # five sequences in a graph for eight
    updates = emulation.calls["npu::npu_fused_infer_attention_score.out"]
    assert updates == (1 + 20) * 2  # of two layers: the capture, and an update for each step
    monkeypatch.setattr(graphs, "MAX_BATCH", 0)
    assert greedy(npu, folder) == captured
    assert emulation.calls["npu::npu_fused_infer_attention_score.out"] == updates


def test_another_cache_has_graphs_of_its_own(
    npu: Device, emulation: Emulation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one model, as after a cache was allocated anew."""
    kept: list[Attention] = []  # or the next one would take the memory of the last
    allocate = npu.paged_attention

    def paged_attention() -> Attention:
        kept.append(allocate())
        return kept[-1]

    monkeypatch.setattr(npu, "paged_attention", paged_attention)
    checkpoint = Checkpoint.open(folder)
    golden = open_golden("bundled")
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]

    def last_tokens(*batches: list[GoldenCase]) -> Tokens:
        """Of one model that plays the batches one after the other, each in a new cache."""
        with torch.inference_mode():
            model = load_model(checkpoint, npu)
        for batch in batches:
            played = play(model, npu, checkpoint.spec, batch, chunk=10_000, block_size=128)
        return [[token.token_id for token in one.tokens] for one in played]

    assert last_tokens(every[:2], every[2:4]) == last_tokens(every[2:4])


def test_a_graph_is_for_whole_steps_of_its_size(
    npu: Device, emulation: Emulation, folder: Path
) -> None:
    """A part of the layers is computed by single operators; a step may be computed again."""
    from glm4v.device.npu.decoder import NpuDecoder

    checkpoint = Checkpoint.open(folder)
    with torch.inference_mode():
        model = load_model(checkpoint, npu)
    layers = checkpoint.spec.layers
    attention = allocated_attention(checkpoint.spec, npu, blocks=1, block_size=128)
    hidden = torch.ones(1, checkpoint.spec.hidden_size, dtype=npu.dtype, device=npu.torch_device)
    positions = torch.tensor([3], device=npu.torch_device)

    def run(*parts: range) -> torch.Tensor:
        result = hidden
        for part in parts:
            result = model.decoder.run(part, result.clone(), positions, attention)
        return result.float().cpu()

    attention.prepare([AttentionSegment(1, 0, (0,))])
    in_parts = run(range(1), range(1, layers))
    assert isinstance(model.decoder, NpuDecoder)
    assert model.decoder._graphs is not None
    assert set(model.decoder._graphs._graphs) == set()
    for _ in range(2):  # captured, and replayed
        torch.testing.assert_close(run(range(layers)), in_parts, atol=0.01, rtol=0)
    assert set(model.decoder._graphs._graphs) == {1}  # of the size that is needed
    torch.testing.assert_close(run(range(1), range(1, layers)), in_parts, atol=0, rtol=0)


def test_a_replay_without_new_lengths_gives_other_tokens(
    npu: Device, emulation: Emulation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch_npu

    right = greedy(npu, folder)
    monkeypatch.setattr(torch_npu.npu.NPUGraph, "update", lambda graph, cpu_update_input: None)
    assert greedy(npu, folder) != right


def test_a_replay_reads_the_tensors_of_its_capture(emulation: Emulation) -> None:
    import torch_npu

    x = torch.zeros(4, dtype=torch.float16, device="npu")
    graph = torch_npu.npu.NPUGraph()
    with torch_npu.npu.graph(graph, auto_dispatch_capture=True):
        y = x + 1
    assert y.isnan().any().item() or y.abs().max().item() > 1, "nothing was computed so far"
    x.fill_(3)
    graph.replay()
    assert y.tolist() == [4.0] * 4
    x = x + 1  # another tensor: the graph knows nothing of it
    graph.replay()
    assert y.tolist() == [4.0] * 4


def test_a_capture_that_reads_on_the_host_is_refused(emulation: Emulation) -> None:
    import torch_npu

    x = torch.zeros(4, dtype=torch.float16, device="npu")

    def read() -> Any:
        with torch_npu.npu.graph(torch_npu.npu.NPUGraph(), auto_dispatch_capture=True):
            return (x + 1).max().item()

    with pytest.raises(RuntimeError, match="cannot read what it computes"):
        read()
