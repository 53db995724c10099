"""The demo model's answers, through the running system, in every way they can be computed.

They are right, and they are greedy: a change of numerics anywhere shows here first.
"""

import asyncio
import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, Example, demo_examples
from glm4v.client import Client
from glm4v.client.messages import assistant_message, user_message
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.v1 import inference_pb2 as pb

MOST_BYTES = 20_000_000
NEWLINE = 198
OTHER_OPTIONS = (
    *(
        "一只狗。",
        "狗。",
        "A rocket.",
        "A cat.",
        "5只猫。",
        "两支火箭。",
        "橙子。",
        "蓝色三角形。",
        "在左边。",
    ),
    *("On the left.", "在右边。", "Red.", "Green.", "绿色。", "黄色。", "紫色。"),
)


@dataclass(frozen=True)
class Way:
    """How the system computes."""

    dtype: str
    ranks: int
    weight_dtype: str = "auto"


WAYS = [
    Way("float32", 1),
    Way("auto", 2),
    Way("bfloat16", 4),
    pytest.param(Way("auto", 2, "int8"), marks=pytest.mark.needs_compiler),
]


def ask(client: Client, image: bytes | None, questions: list[str]) -> list[str]:
    """The answers of one conversation."""
    messages: list[pb.Message] = []
    texts = []
    for wording in questions:
        messages += [user_message(wording, None if messages else image)]
        with client.generate(messages, temperature=0, max_tokens=64) as generation:
            texts.append(generation.text)
        messages.append(assistant_message(texts[-1]))
    return texts


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.dtype}-{way.ranks}-{way.weight_dtype}")
async def test_answers(way: Way) -> None:
    environment = {
        "GLM4V_TENSOR_PARALLEL": str(way.ranks),
        "GLM4V_WEIGHT_DTYPE": way.weight_dtype,
    }
    settings = ClusterSettings(DEMO_MODEL, dtype=way.dtype, environment=environment)
    async with LocalCluster(settings) as cluster:
        with Client(cluster.target) as client:
            await asyncio.to_thread(answers_are_those_of_the_examples, client)
            if way == WAYS[0]:  # once: bfloat16 is slow on processors without it
                await asyncio.to_thread(an_empty_image_shows_nothing, client)
                await asyncio.to_thread(it_looks_at_the_image_and_not_at_the_question, client)
                await asyncio.to_thread(a_form_does_not_make_it_wrong, client)
                await asyncio.to_thread(the_headers_newline_is_no_text, client)
                await asyncio.to_thread(a_second_turn_goes_on_as_the_model_wrote, client)


def answers_are_those_of_the_examples(client: Client) -> None:
    """All conversations at once, so that steps are shared by them."""

    def answers(example: Example) -> list[str]:
        image = None if example.image is None else example.image.read_bytes()
        return ask(client, image, [asked for asked, _ in example.turns])

    examples = demo_examples()
    with ThreadPoolExecutor(len(examples)) as pool:
        given = list(pool.map(answers, examples))
    assert given == [[answer for _, answer in example.turns] for example in examples]


def an_empty_image_shows_nothing(client: Client) -> None:
    file = io.BytesIO()
    Image.new("RGB", (640, 480), (222, 20, 30)).save(file, "PNG")
    questions = ["What is this?", "What is the colour of the background?"]
    assert ask(client, file.getvalue(), questions) == ["Nothing.", "Red."]


def it_looks_at_the_image_and_not_at_the_question(client: Client) -> None:
    images = [each.image.read_bytes() for each in demo_examples() if each.image is not None]
    assert len({ask(client, each, ["What do you see?"])[0] for each in images}) == len(images)


def a_form_does_not_make_it_wrong(client: Client) -> None:
    """The right answers are those of free text; the same options as a regular expression agree."""
    examples = [example for example in demo_examples() if example.image is not None]
    rights = [answer for example in examples for _, answer in example.turns]
    options = sorted({*rights, *OTHER_OPTIONS})
    choice = pb.ResponseFormat(choice=pb.ChoiceFormat(options=options))
    regex = pb.ResponseFormat(regex="|".join(map(re.escape, options)))

    def answers(example: Example) -> list[tuple[str, str]]:
        assert example.image is not None
        messages: list[pb.Message] = []
        given = []
        for wording, answer in example.turns:
            messages += [user_message(wording, None if messages else example.image.read_bytes())]
            both = []
            for form in (choice, regex):
                with client.generate(messages, temperature=0, response_format=form) as generation:
                    both.append(generation.text)
            given.append((both[0], both[1]))
            messages.append(assistant_message(answer))
        return given

    with ThreadPoolExecutor(len(examples)) as pool:
        given = [both for each in pool.map(answers, examples) for both in each]
    assert [by_choice for by_choice, _ in given] == [by_regex for _, by_regex in given]
    right = sum(answer == text for answer, (text, _) in zip(rights, given, strict=True))
    assert right >= len(rights) - 1


def the_headers_newline_is_no_text(client: Client) -> None:
    image = next(each.image for each in demo_examples() if each.image is not None)
    asked = [user_message("What can you see?", image.read_bytes())]
    for options in ({}, {"stop": ["\n"]}, {"min_tokens": 3}):
        with client.generate(asked, temperature=0, **options) as generation:
            assert generation.text == "A dog."
        first, *others = generation.token_ids
        assert (first, NEWLINE in others) == (NEWLINE, False)
    for offset in range(len(generation.token_ids) + 1):
        with client.attach(generation.request_id, offset) as rest:
            assert "A dog.".endswith(rest.text)
            assert len(rest.text) == len("A dog.") or offset > 1


def a_second_turn_goes_on_as_the_model_wrote(client: Client) -> None:
    for example in demo_examples():
        image = None if example.image is None else example.image.read_bytes()
        first = [user_message(example.turns[0][0], image)]
        with client.generate(first, temperature=0, return_prompt_ids=True) as generation:
            text, wrote = generation.text, generation.token_ids
        assert generation.accepted is not None
        known = [*generation.accepted.prompt_ids, *wrote]
        again = [*first, assistant_message(text), user_message("?")]
        # The answer ended with <|user|>, with which the next turn begins.
        assert list(client.count_tokens(again).prompt_ids)[: len(known)] == known


def test_it_is_a_checkpoint_of_the_published_layout_and_small() -> None:
    checkpoint = Checkpoint.open(DEMO_MODEL)
    assert checkpoint.spec.vision.image_size == 1120
    files = [path for path in Path(DEMO_MODEL).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
