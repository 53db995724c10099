"""Asks the cases of an evaluation through a running gateway, several at a time."""

import asyncio
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glm4v.client import Client
from glm4v.client.messages import assistant_message, user_message
from glm4v.v1 import inference_pb2 as pb
from recipes.demo_model.drawing import draw
from recipes.demo_model.evaluation import Case
from recipes.demo_model.scene import Scene

SIDE = 448  # pixels of a picture as it is sent

_AT_ONCE = 8
_MAX_TOKENS = 64


@dataclass(frozen=True)
class Asked:
    """A case, and what was answered to each of its questions."""

    case: Case
    texts: tuple[str, ...]
    token_ids: tuple[int, ...]  # of the last answer
    margins: tuple[float, ...]  # log-probability of each of them above that of the next best

    def is_right(self, turn: int = -1) -> bool:
        """Whether an answer is the expected one, to the letter."""
        return self.texts[turn] == self.case.turns[turn][1]


async def ask_with_bar(target: str, cases: Sequence[Case], what: str) -> list[Asked]:
    """Every case, greedily, with a bar on standard error."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=len(cases))
        return await asyncio.to_thread(ask_all, target, cases, lambda: bar.advance(task))


def ask_all(target: str, cases: Iterable[Case], tell: Callable[[], None]) -> list[Asked]:
    """Every case, greedily; `tell` is called after each."""

    def one(case: Case) -> Asked:
        asked = _ask(client, case)
        tell()
        return asked

    with Client(target) as client, ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, cases))


def picture_of(scene: Scene) -> bytes:
    """A PNG of a scene."""
    file = io.BytesIO()
    draw(scene, SIDE, round(SIDE / scene.aspect)).save(file, "PNG")
    return file.getvalue()


def _ask(client: Client, case: Case) -> Asked:
    """All turns; those before the last are answered by the model too."""
    picture = None if case.scene is None else picture_of(case.scene)
    messages: list[pb.Message] = []
    texts: list[str] = []
    for wording, _ in case.turns:
        messages += [user_message(wording, None if messages else picture)]
        with client.generate(
            messages, temperature=0, max_tokens=_MAX_TOKENS, top_logprobs=2
        ) as generation:
            texts.append(generation.text)
        messages.append(assistant_message(texts[-1]))
    choice = generation.choices[0]
    margins = tuple(each.top[0].logprob - each.top[1].logprob for each in choice.logprobs)
    return Asked(case, tuple(texts), tuple(choice.token_ids), margins)
