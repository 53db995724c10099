"""A client that asks one short question after another, and looks at the gateway's health."""

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

_TIMEOUT_S = 20.0


@dataclass
class Experience:
    """Seconds that answers and health checks took, and what went wrong."""

    answers_s: list[float] = field(default_factory=list)
    healths_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def quantiles(self) -> tuple[float, float]:
        """The median and the 99th percentile of the answers, in seconds."""
        if len(self.answers_s) < 2:
            return (float("inf"), float("inf"))
        return (statistics.median(self.answers_s), statistics.quantiles(self.answers_s, n=100)[98])

    @property
    def slowest_health_s(self) -> float:
        """Of the health checks."""
        return max(self.healths_s, default=float("inf"))


class Honest:
    """`async with Honest(target) as honest: experience = await honest.ask(until)`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]

    async def __aenter__(self) -> "Honest":
        self._channel = aio.insecure_channel(self._target, options=self._options)
        self._stub = InferenceServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, answers: int, most_s: float) -> Experience:
        """Ask so many times, or as often as it goes in `most_s` seconds, and at least once."""
        experience = Experience()
        end = time.monotonic() + most_s
        for _ in range(answers):
            try:
                experience.answers_s.append(await self._timed(self._answer))
                experience.healths_s.append(await self._timed(self._health))
            except aio.AioRpcError as error:
                experience.failures.append(f"{error.code().name}: {error.details()}")
            if time.monotonic() > end:
                break
        return experience

    async def _timed(self, call: Callable[[], Awaitable[None]]) -> float:
        started = time.monotonic()
        await call()
        return time.monotonic() - started

    async def _answer(self) -> None:
        request = api.GenerateRequest(max_tokens=4, ignore_eos=True)
        request.messages.add(role=api.ROLE_USER).parts.add(text="how are you?")
        async for _ in self._stub.Generate(request, timeout=_TIMEOUT_S):
            pass

    async def _health(self) -> None:
        """As a probe does: over a connection of its own."""
        async with aio.insecure_channel(self._target, options=self._options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
