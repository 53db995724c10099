"""Clients that ask mixed questions, one after the other, and write down what they see."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import anyio
import grpc

from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import again, ask, draw, encodes
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading

_TEXTS = 48
_CANCELLED = 0.12  # part of the requests
_REQUESTS_PER_IMAGE = 16
_MOST_TOKENS = 120
_SHAPED = 0.3  # part of the questions that ask for an answer of this format
_FORMAT = api.ResponseFormat(regex="((an image of a (cat|dog)|nothing at all), ){99}")


@dataclass
class Load:
    """What was asked, and what came of it."""

    seed: int
    questions: dict[str, api.GenerateRequest] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    readings: list[tuple[str, Reading]] = field(default_factory=list)
    asked: int = 0
    _is_over: bool = False

    def stop(self) -> None:
        """Let clients end with the request they are at."""
        self._is_over = True

    async def client(self, reader: Reader, number: int) -> None:
        """One client, until `stop`."""
        rng = Random(f"{self.seed}:{number}")
        while not self._is_over:
            await self.ask_next(reader, rng)

    async def ask_next(self, reader: Reader, rng: Random) -> None:
        """One request, to its end."""
        name = self._choose(rng)
        reading = Reading(again(self.questions[name]))
        self.asked += 1
        self.readings.append((name, reading))
        at = -1
        if rng.random() < _CANCELLED:
            at = rng.randrange(reading.request.max_tokens)
        await _read(reader, reading, cancel_at=at)

    async def answer_undisturbed(self, reader: Reader) -> dict[str, list[int]]:
        """The tokens of every question that was asked, while nothing is broken."""
        answers: dict[str, list[int]] = {}
        names = iter(sorted({name for name, _ in self.readings}))

        async def ask_next() -> None:
            for name in names:
                reading = await reader.read(again(self.questions[name]))
                assert reading.terminal == ["finished"], reading.details
                answers[name] = reading.token_ids

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ask_next)
        return answers

    def most_encodes(self, fleet: Fleet) -> int:
        """Of the image that was encoded most often."""
        return max((encodes(fleet, image) for image in self.images.values()), default=0)

    def _choose(self, rng: Random) -> str:
        """The name of a question; questions are the same for the same name."""
        if rng.random() < 0.5:
            name = f"text {rng.randrange(_TEXTS)}"
        else:
            image = self.asked // _REQUESTS_PER_IMAGE
            name = f"image {image} {rng.randrange(2)}"
        if name not in self.questions:
            self.questions[name] = self._question(name)
        return name

    def _question(self, name: str) -> api.GenerateRequest:
        rng = Random(f"{self.seed}:{name}")
        image = None
        if name.startswith("image"):
            key = name.rpartition(" ")[0]
            image = self.images.setdefault(key, draw(f"{self.seed}:{key}"))
        seed = rng.getrandbits(63) if rng.random() < 0.5 else None
        text = "".join(rng.choices("what is 图片里有什么", k=rng.randint(1, 60)))
        request = ask(text, image, seed=seed, max_tokens=rng.randint(5, _MOST_TOKENS))
        if rng.random() < _SHAPED:
            request.response_format.CopyFrom(_FORMAT)
        return request


async def _read(reader: Reader, reading: Reading, cancel_at: int) -> None:
    cancelling: asyncio.Task[bool] | None = None
    async for _ in reader.events(reading):
        if cancelling is None and 0 <= cancel_at <= len(reading.token_ids):
            cancelling = asyncio.create_task(reader.cancel(reading.request_id))
    if cancelling is not None:
        try:
            await cancelling
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:  # erased: the checker looks for losses
                raise
