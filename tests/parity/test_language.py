"""The language model against the outputs of the original implementation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import AttentionSegment, DeviceOptions, open_device
from tests.parity.golden_plans import (
    GoldenCase,
    Played,
    RecordingModel,
    allocated_attention,
    cases,
    load_model,
    open_golden,
    play,
    positions,
    read_case,
)

TOLERANCE = 1e-4  # of logits, all of order 1
WHOLE = 10_000  # a chunk that holds every prompt

from_reference = pytest.mark.needs_reference


class Model:
    """A loaded checkpoint with its golden outputs."""

    def __init__(self, name: str, folder: Callable[[str], Path], dtype: str = "float32") -> None:
        checkpoint = Checkpoint.open(folder("micro-glm4v" if name == "bundled" else name))
        self.golden = open_golden(name)
        self.spec = checkpoint.spec
        self.device = open_device(DeviceOptions("cpu", dtype))
        self.model: RecordingModel = load_model(checkpoint, self.device)
        self.cases = [read_case(self.golden, case, checkpoint.spec) for case in cases(self.golden)]

    def play(self, played: list[GoldenCase], *, chunk: int, block_size: int) -> list[Played]:
        """Run cases side by side."""
        return play(self.model, self.device, self.spec, played, chunk=chunk, block_size=block_size)


@pytest.fixture(
    scope="module",
    params=[
        "bundled",
        pytest.param("micro-glm4v", marks=from_reference),
        pytest.param("tiny-glm4v", marks=from_reference),
        pytest.param("tiny-glm4v-1120", marks=from_reference),
    ],
)
def model(request: pytest.FixtureRequest, checkpoint_dir: Callable[[str], Path]) -> Model:
    return Model(request.param, checkpoint_dir)


@pytest.fixture(scope="module")
def micro(checkpoint_dir: Callable[[str], Path]) -> Model:
    return Model("bundled", checkpoint_dir)


def compare(case: GoldenCase, played: Played) -> None:
    """Every step's logits and the greedy tokens are those of the original implementation."""
    torch.testing.assert_close(played.logits[0], case.last_logits, atol=TOLERANCE, rtol=0)
    chosen = tuple(token.token_id for token in played.tokens)
    assert chosen[: len(case.tokens)] == case.tokens
    top = played.logits[1:].gather(1, case.top_ids)
    torch.testing.assert_close(top, case.top_logits, atol=TOLERANCE, rtol=0)


def test_positions_match_the_original(model: Model) -> None:
    for case in model.cases:
        expected = tuple(model.golden[f"{case.name}/rope_positions"].tolist())
        ids = model.golden[f"{case.name}/input_ids"].tolist()
        assert positions(ids, model.spec, case.image is not None) == expected
        assert case.next_position == model.golden[f"{case.name}/decode_positions"][0]


def test_each_case_alone_in_one_prefill(model: Model) -> None:
    for case in model.cases:
        compare(case, model.play([case], chunk=WHOLE, block_size=16)[0])


@pytest.mark.parametrize(("chunk", "block_size"), [(1, 16), (3, 2), (7, 16), (WHOLE, 2)])
def test_all_cases_together_in_chunks(model: Model, chunk: int, block_size: int) -> None:
    for case, played in zip(
        model.cases, model.play(model.cases, chunk=chunk, block_size=block_size), strict=True
    ):
        compare(case, played)


def test_every_layer_of_micro(micro: Model) -> None:
    for case in micro.cases:
        outputs = layer_outputs(micro, case)
        for number, hidden in enumerate(outputs):
            expected = torch.from_numpy(micro.golden[f"{case.name}/act/lm.layer{number}"])
            torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=0)
        normed = micro.model.norm(outputs[-1])
        expected = torch.from_numpy(micro.golden[f"{case.name}/act/lm.final_layernorm"])
        torch.testing.assert_close(normed, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.needs_reference
def test_every_token_of_micro_has_the_logits(checkpoint_dir: Callable[[str], Path]) -> None:
    micro = Model("micro-glm4v", checkpoint_dir)
    for case in micro.cases:
        logits = micro.model.logits(layer_outputs(micro, case)[-1])
        expected = torch.from_numpy(micro.golden[f"{case.name}/logits_all"])
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def layer_outputs(model: Model, case: GoldenCase) -> list[torch.Tensor]:
    """The prompt's rows after each layer."""
    rows = len(case.token_ids)
    attention = allocated_attention(model.spec, model.device, blocks=rows, block_size=1)
    attention.prepare([AttentionSegment(rows, 0, tuple(reversed(range(rows))))])
    places = torch.tensor(case.positions)
    ids = torch.tensor(case.token_ids)
    hidden = model.model.embed(ids.clamp(min=0))
    if case.image is not None:
        hidden[ids < 0] = case.image
    outputs = []
    for layer in range(model.spec.layers):
        one = range(layer, layer + 1)
        hidden = model.model.decoder.run(one, hidden, places, attention)
        outputs.append(hidden.clone())
    return outputs


def test_image_embeddings_replace_the_placeholders(micro: Model) -> None:
    case = next(case for case in micro.cases if case.image is not None)
    swapped = replace(case, image=case.image.flip(0) if case.image is not None else None)
    played = micro.play([swapped], chunk=WHOLE, block_size=16)[0]
    difference = played.logits[0] - case.last_logits
    assert difference.abs().max() > 0.1


def test_sequential_positions_give_the_known_wrong_logits(model: Model) -> None:
    """The comparison sees what it is there for: patches that do not share one position."""
    for case in model.cases:
        if case.image is None:
            continue
        wrong = replace(case, positions=tuple(range(len(case.token_ids))))
        logits = model.play([wrong], chunk=WHOLE, block_size=16)[0].logits[0]
        assert (logits - case.last_logits).abs().max() > 0.1
        control = model.golden[f"{case.name}/control_sequential_positions_logits_last"]
        expected = torch.from_numpy(control)
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.needs_reference
@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 1.5), ("float16", 0.3)])
def test_half_precision_is_as_near_as_the_original_in_half_precision(
    dtype: str, share: float, checkpoint_dir: Callable[[str], Path]
) -> None:
    """Rounding differs from the original's, its size does not; float16 has 3 bits more."""
    half = Model("micro-glm4v", checkpoint_dir, dtype)
    played = half.play(half.cases, chunk=7, block_size=4)
    for case, ours in zip(half.cases, played, strict=True):
        exact = case.last_logits
        theirs = torch.from_numpy(half.golden[f"{case.name}/bf16_prefill_logits_last"])
        allowed = share * (theirs - exact).abs().max()
        assert (ours.logits[0].float() - exact).abs().max() < allowed, case.name
