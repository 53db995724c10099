"""What the demo model learns from, how a run goes on, and what becomes of its weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gateway.text.prompt import Turn, render
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tiny import write_tiny
from recipes.demo_model.batches import Batch
from recipes.demo_model.beginnings import begin, say_first_word
from recipes.demo_model.exchange import Exchange
from recipes.demo_model.export import checkpoint_tensors, export, read_weights
from recipes.demo_model.grounding import LAYER, Grounding, looked
from recipes.demo_model.labels import KINDS
from recipes.demo_model.learner import SHRUNK, Learner, shrunk
from recipes.demo_model.nouns import Noun
from recipes.demo_model.optimizers import make_optimizers, set_rate
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.progress import FILE, load_progress, load_weights, save_progress
from recipes.demo_model.scores import Scores
from recipes.demo_model.things import things
from recipes.demo_model.train import Plan, rate_at, stage_at
from recipes.demo_model.turns import ANYWHERE, IGNORED, IMAGE_SLOT, lesson, named, padded, places

EXCHANGES = [
    Exchange("What is this?", "A dog.", "name", about=((0.3, 0.8),)),
    Exchange("它是什么颜色的？", "红色。", "follow_up"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose pictures can be shrunk: 280 pixels, patches of 35."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"image_size": 280, "patch_size": 35, "num_positions": 65}
    config["num_layers"] = LAYER + 1
    (folder / "config.json").write_text(json.dumps(config))
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    return folder


@pytest.fixture(scope="module")
def spec(tiny: Path) -> ModelSpec:
    return read_spec(tiny)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path, spec: ModelSpec) -> Tokenizer:
    return Tokenizer.read(tiny, spec)


@pytest.mark.parametrize("has_image", [True, False])
def test_lessons_are_what_the_gateway_renders(tokenizer: Tokenizer, has_image: bool) -> None:
    turns = [
        Turn("user", EXCHANGES[0].question, has_image),
        Turn("assistant", EXCHANGES[0].answer),
        Turn("user", EXCHANGES[1].question),
    ]
    prompt = render(turns, tokenizer)
    taught = lesson(EXCHANGES, tokenizer, has_image=has_image)
    assert taught.ids[: len(prompt.ids)].tolist() == prompt.ids
    assert prompt.image_offset == (IMAGE_SLOT if has_image else None)
    answer = tokenizer.encode("\n") + tokenizer.encode(EXCHANGES[1].answer)
    assert taught.ids[len(prompt.ids) :].tolist() == answer


def test_targets_are_the_answers_and_the_turn_behind_them(tokenizer: Tokenizer) -> None:
    taught = lesson(EXCHANGES, tokenizer, has_image=True)
    assert len(taught.targets) == len(taught.owners) == len(taught.ids) - 3
    for number, exchange in enumerate(EXCHANGES):
        expected = tokenizer.encode("\n") + tokenizer.encode(exchange.answer)
        mine = taught.targets[taught.owners == number].tolist()
        assert mine == [*expected, tokenizer.special_id("<|user|>")]
    assert (taught.targets[taught.owners == IGNORED] == IGNORED).all()
    assert taught.positions.tolist() == list(range(len(taught.ids)))
    # Each row's target is the token of the next row.
    text = [*taught.ids[:IMAGE_SLOT], *taught.ids[IMAGE_SLOT + 3 :]]
    for row, target in enumerate(taught.targets[:-1]):
        assert target in (IGNORED, text[row + 1])


@torch.no_grad()
def test_topics_apart_are_conversations_of_their_own(spec: ModelSpec, tokenizer: Tokenizer) -> None:
    other = Exchange("How many dogs are there?", "3.", "count")
    torch.manual_seed(1)
    network = Learner(shrunk(spec)).network
    picture = torch.randn(1, (spec.vision.grid // 2) ** 2 + 2, spec.hidden_size)

    def answers(exchanges: list[Exchange], *, apart: bool) -> dict[int, torch.Tensor]:
        """The logits of each answer, by its number."""
        taught = lesson(exchanges, tokenizer, has_image=True, apart=apart)
        columns = (torch.from_numpy(part)[None] for part in (taught.positions, taught.topics))
        logits = network(torch.from_numpy(taught.ids)[None], picture, IMAGE_SLOT, *columns)[0][0]
        owners = torch.from_numpy(taught.owners)
        return {number: logits[owners == number] for number in range(len(exchanges))}

    together = answers([*EXCHANGES, other], apart=True)
    first, second = answers(EXCHANGES, apart=False), answers([other], apart=False)
    for mine, alone in ((together[0], first[0]), (together[1], first[1]), (together[2], second[0])):
        assert torch.allclose(mine, alone, atol=1e-5)
    told = answers([*EXCHANGES, other], apart=False)
    assert not torch.allclose(told[2], second[0], atol=1e-2), "what was said before tells something"


def batch_of(spec: ModelSpec, tokenizer: Tokenizer, seed: int) -> Batch:
    """Two noisy pictures with the same conversation."""
    rng = torch.Generator().manual_seed(seed)
    taught = lesson(EXCHANGES, tokenizer, has_image=True)
    side, cells = spec.vision.image_size, spec.vision.grid**2

    def twice(values: object) -> torch.Tensor:
        return torch.from_numpy(padded([values, values], 0, 1))  # type: ignore[list-item]

    return Batch(
        twice(taught.ids),
        twice(taught.positions),
        twice(taught.topics),
        twice(taught.targets),
        twice(taught.owners),
        [[exchange.skill for exchange in EXCHANGES]] * 2,
        torch.randint(256, (2, side, side, 3), dtype=torch.uint8, generator=rng),
        torch.stack(
            [
                torch.randint(low, high, (2, cells), generator=rng)
                for low, high in ((0, len(KINDS)), (-1, len(COLOURS)), (0, 2))
            ],
            dim=-1,
        ),
        torch.from_numpy(np.stack([places(EXCHANGES, spec.vision.grid // 2)] * 2)),
        torch.from_numpy(np.stack([named(EXCHANGES)] * 2)),
    )


def steps(
    learner: Learner,
    optimizers: list[torch.optim.Optimizer],
    spec: ModelSpec,
    tokenizer: Tokenizer,
    which: range,
) -> list[float]:
    losses = []
    for step in which:
        batch = batch_of(spec, tokenizer, step % 2)
        loss = learner(batch, Scores(), "tower" if step < 2 else "all")
        losses.append(float(loss.detach()))
        loss.backward()
        set_rate(optimizers, 1e-3)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(
    spec: ModelSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small = shrunk(spec)
    torch.manual_seed(1)
    whole = Learner(small)
    optimizers = make_optimizers(whole, 1e-3)
    assert load_progress(tmp_path, whole, optimizers) == 0
    steps(whole, optimizers, small, tokenizer, range(4))
    save_progress(tmp_path, whole, optimizers, 4)
    expected = steps(whole, optimizers, small, tokenizer, range(4, 7))

    torch.manual_seed(2)
    other = Learner(small)
    others = make_optimizers(other, 1e-3)
    assert load_progress(tmp_path, other, others) == 4
    assert steps(other, others, small, tokenizer, range(4, 7)) == expected
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_it_learns(spec: ModelSpec, tokenizer: Tokenizer) -> None:
    small = shrunk(spec)
    torch.manual_seed(1)
    learner = Learner(small)
    losses = steps(learner, make_optimizers(learner, 1e-3), small, tokenizer, range(2, 42))
    assert losses[-1] < losses[0] / 2


def test_places_are_the_rows_of_what_is_asked_about() -> None:
    asked = [
        Exchange("How many?", "2.", "count", about=((0.1, 0.1), (0.12, 0.1), (1.0, 0.6))),
        Exchange("Is there a dog?", "No.", "exists", about=()),
        Exchange("Read it.", "8", "read"),
    ]
    found = places(asked, 4)
    assert found[0].nonzero()[0].tolist() == [0, 11]
    assert found[0][[0, 11]].tolist() == [2, 1]
    assert not found[1].any()
    assert (found[2] == ANYWHERE).all()


def test_rows_that_begin_answers(tokenizer: Tokenizer) -> None:
    told = lesson(EXCHANGES, tokenizer, has_image=True)
    owners = torch.from_numpy(np.stack([told.owners, told.owners]))
    newline = tokenizer.encode("\n")[0]
    for mask in begin(owners):
        targets = told.targets[mask.numpy()].tolist()
        firsts = [tokenizer.encode(exchange.answer)[0] for exchange in EXCHANGES]
        assert targets == [newline, firsts[0], newline, firsts[1]]
        assert told.targets[say_first_word(owners)[0].numpy()].tolist() == firsts


def test_what_a_question_names() -> None:
    dog = next(Noun.of(thing) for thing in things() if thing.english == "a dog")
    asked = [
        Exchange("Where is the dog?", "On the left.", "where", named=dog),
        Exchange(
            "And the red dog?", "On the left.", "where", named=replace(dog, colour=COLOURS[1])
        ),
        Exchange("What is this?", "A dog.", "name"),
    ]
    kind = KINDS.index("a dog")
    assert named(asked).tolist() == [[kind, len(COLOURS)], [kind, 1], [IGNORED, IGNORED]]


def test_heads_learn_to_look_at_what_is_asked_about() -> None:
    wanted = torch.tensor([[0, 2, 1, 0], [0, 0, 0, 0], [ANYWHERE] * 4])
    logits = torch.zeros(3, 3, 5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        looked(logits.softmax(-1), wanted, Scores()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    which, last, how_many = logits.softmax(-1).detach().unbind(1)
    assert which[0].tolist() == pytest.approx([0, 0, 2 / 3, 1 / 3, 0], abs=0.03)
    assert how_many[0].tolist() == pytest.approx([5 / 8, 0, 2 / 8, 1 / 8, 0], abs=0.03)
    assert which[1, 0] > 0.95 < min(how_many[1, 0], last[1, 0]), (
        "there is nothing of what it asks about"
    )
    assert last[0].tolist() == pytest.approx([0, 0, 0, 1, 0], abs=0.03)
    assert which[2].tolist() == how_many[2].tolist() == pytest.approx([1 / 5] * 5)


def test_rows_learn_how_many_they_looked_at() -> None:
    torch.manual_seed(1)
    grounding, seen = Grounding(16), torch.randn(4, 16)
    wanted = torch.tensor([[0, 2, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [ANYWHERE] * 4])
    optimizer = torch.optim.Adam(grounding.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        grounding.counted(seen, wanted, Scores()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert grounding.numbers(seen).argmax(-1)[:3].tolist() == [3, 3, 0]
    scores = Scores()
    grounding.counted(seen[3:], wanted[3:], scores)
    assert scores.take() == "", "nothing was asked that could be counted"


def test_a_run_that_starts_with_a_checkpoint_leaves_its_tower(
    spec: ModelSpec, tokenizer: Tokenizer, tiny: Path, tmp_path: Path
) -> None:
    small = shrunk(spec)
    learner = Learner(small)
    save_progress(tmp_path, learner, [], 1)
    export(tmp_path, tiny)
    learner.network.load_state_dict(read_weights(tiny))
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    optimizers = make_optimizers(learner, 1e-3)
    learner(batch_of(small, tokenizer, 0), Scores(), "language").backward()
    set_rate(optimizers, 1e-3)
    for optimizer in optimizers:
        optimizer.step()
    changed = {n for n, value in learner.network.state_dict().items() if (value != before[n]).any()}
    assert not any("patch_embedding" in name or "vision.transformer" in name for name in changed)
    assert any("vision.linear_proj" in name for name in changed)
    assert any("encoder.layers.0" in name for name in changed)


def test_the_rate_rises_stays_and_falls(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path, 1000, 0, 0, 200, 4, 1e-3, 1, "cpu", 1)
    rates = [rate_at(step, plan) for step in range(1000)]
    assert rates[0] < rates[50] < rates[150] == rates[799] == 1e-3
    assert 0 < rates[999] < rates[900] < 1e-3
    longer = Plan(tmp_path, tmp_path, 2000, 0, 0, 200, 4, 1e-3, 1, "cpu", 1)
    assert [rate_at(step, longer) for step in range(800)] == rates[:800]


def test_what_is_trained_when(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path, 9, 2, 1, 1, 4, 1e-3, 1, "cpu", 1)
    assert [stage_at(step, plan) for step in range(4)] == ["tower", "tower", "adapter", "all"]
    goes_on = replace(plan, start=tmp_path, language_steps=2)
    assert [stage_at(step, goes_on) for step in range(3)] == ["language", "language", "all"]


def test_a_checkpoint_sees_the_mean_of_what_was_trained_on(
    spec: ModelSpec, tokenizer: Tokenizer, tiny: Path, tmp_path: Path
) -> None:
    small = shrunk(spec)
    torch.manual_seed(1)
    learner = Learner(small)
    save_progress(tmp_path, learner, [], 1)
    weights = checkpoint_tensors(load_weights(tmp_path), spec)
    name = "transformer.vision.patch_embedding.proj"
    picture = torch.randn(1, 3, spec.vision.image_size, spec.vision.image_size)
    seen = torch.nn.functional.conv2d(
        picture,
        weights[f"{name}.weight"].float(),
        weights[f"{name}.bias"].float(),
        stride=spec.vision.patch_size,
    )
    means = torch.nn.functional.avg_pool2d(picture, SHRUNK)
    trained = learner.network.vision.patch_embedding.proj(means)
    assert (seen - trained).abs().max() < 0.02  # rounding to bfloat16

    export(tmp_path, tiny)
    assert Checkpoint.open(tiny).spec == spec
    assert json.loads((tiny / "generation_config.json").read_text())["do_sample"] is False
