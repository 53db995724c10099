"""Only tokens whose logits somebody wants pass through the whole of the model."""

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.device import AttentionSegment, DeviceOptions, open_device
from glm4v.device.cpu.device import CpuDevice
from lm_worker.model.runner import Runner
from lm_worker.plan import Chunk, PromptScoring, SamplingState, StepPlan
from tests.parity.golden_plans import GREEDY, allocated_attention, load_model

PROMPT = tuple(range(40, 60))
SCORED = PromptScoring(offsets=(0, 1), indices=(1, 2), token_ids=PROMPT[1:3], top=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny(folder)
    return Checkpoint.open(folder)


def chunk(
    number: int,
    start: int,
    end: int,
    sampling: SamplingState | None = None,
    scoring: PromptScoring | None = None,
) -> Chunk:
    """A part of the prompt, for a sequence with two blocks of its own."""
    blocks = (2 * number, 2 * number + 1)
    places = tuple(range(start, end))
    return Chunk(number, PROMPT[start:end], places, start, blocks, "", sampling, scoring)


def test_steps_have_results_of_the_needed_tokens(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device(DeviceOptions("cpu", "float32"))
    model = load_model(checkpoint, device)
    attention = allocated_attention(checkpoint.spec, device, blocks=6, block_size=16)
    counts: list[int] = []
    run = model.decoder.run

    def counted(*step: object) -> torch.Tensor:
        result = run(*step)  # type: ignore[arg-type]
        counts.append(len(result))
        return result

    monkeypatch.setattr(model.decoder, "run", counted)
    runner = Runner(model, device, attention, checkpoint.spec)
    steps = [
        (chunk(0, 0, 9),),  # nothing is sampled
        (chunk(0, 9, 19, GREEDY), chunk(1, 0, 5)),
        (chunk(0, 19, 20, GREEDY), chunk(1, 5, 20, GREEDY)),
        (chunk(2, 0, 10, scoring=SCORED),),  # scored are any
    ]
    for number, chunks in enumerate(steps):
        runner.execute(StepPlan(number, chunks))
    assert counts == [0, 1, 2, 10]


@pytest.mark.parametrize(
    "kernels", ["torch", pytest.param("own", marks=pytest.mark.needs_compiler)]
)
@pytest.mark.parametrize("needed", [[], [6], [0, 3, 19], list(range(20))])
def test_needed_tokens_are_those_of_the_whole_step(
    checkpoint: Checkpoint, kernels: str, needed: list[int]
) -> None:
    plain = CpuDevice(torch.float32)
    device = plain if kernels == "torch" else open_device(DeviceOptions("cpu", "float32"))
    model = load_model(checkpoint, device)
    attention = allocated_attention(checkpoint.spec, device, blocks=4, block_size=16)
    attention.prepare([AttentionSegment(20, 0, (2, 0))])
    hidden, places = model.embed(torch.tensor(PROMPT)), torch.arange(20)
    kept = torch.tensor(needed, dtype=torch.int64)
    whole = model.forward(hidden.clone(), places, attention)
    part = model.forward(hidden.clone(), places, attention, kept)
    if kernels == "own":  # no row depends on those beside it
        assert torch.equal(part, whole[kept])
    else:
        torch.testing.assert_close(part, whole[kept], atol=1e-5, rtol=0)
    assert model.layers_done == 2 * checkpoint.spec.layers
