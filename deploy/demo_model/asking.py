"""Asks the cases of an evaluation through a running gateway, several at a time."""

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deploy.demo_model.drawing import draw
from deploy.demo_model.evaluation import Case
from deploy.demo_model.scene import Scene
from glm4v.client import Client
from glm4v.conversation import question
from glm4v.v1 import inference_pb2 as pb

SIDE = 448  # pixels of a picture as it is sent

_AT_ONCE = 8
_MAX_TOKENS = 64
_ROLES = (pb.ROLE_USER, pb.ROLE_ASSISTANT)


@dataclass(frozen=True)
class Asked:
    """A case and what was answered to its last question."""

    case: Case
    text: str
    token_ids: tuple[int, ...]
    margins: tuple[float, ...]  # log-probability of each token above that of the next best

    @property
    def is_right(self) -> bool:
        """Whether it is the expected answer, to the letter."""
        return self.text == self.case.turns[-1][1]


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
    said: list[str] = []
    for wording, _ in case.turns:
        said.append(wording)
        messages = question(picture, said[0])
        for number, text in enumerate(said[1:], 1):
            part = pb.ContentPart(text=text)
            messages.append(pb.Message(role=_ROLES[number % 2], parts=[part]))
        with client.generate(
            messages, temperature=0, max_tokens=_MAX_TOKENS, top_logprobs=2
        ) as generation:
            text = generation.text.strip()
        said.append(text)
    choice = generation.choices[0]
    margins = tuple(each.top[0].logprob - each.top[1].logprob for each in choice.logprobs)
    return Asked(case, text, tuple(choice.token_ids), margins)
