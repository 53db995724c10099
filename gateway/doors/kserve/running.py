"""A request of a call that runs."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

from gateway.access.caller import Caller
from gateway.doors.kserve.inference import Inference
from gateway.facade import Gateway
from glm4v.errors import Glm4vError
from glm4v.v1 import inference_pb2 as api

_CANCEL_S = 5.0


class EventSource(Protocol):
    """The events of a request, as the facade gives them."""

    def __aiter__(self) -> AsyncIterator[api.GenerationEvent]: ...

    async def aclose(self) -> None:
        """Detach from the request."""


@dataclass(slots=True)
class Running:
    """A request that was accepted.

    Attributes:
        gateway: Runs it.
        caller: Its owner.
        inference: As it was asked for; its bytes are dropped.
        events: Those after the first.
        accepted: The first.
        is_named: Whether its client has given it a `request_id`, and so may attach to it.
    """

    gateway: Gateway
    caller: Caller
    inference: Inference
    events: "EventSource"
    accepted: api.GenerationEvent
    is_named: bool

    @classmethod
    async def start(
        cls, gateway: Gateway, caller: Caller, inference: Inference, time_left_s: float | None
    ) -> "Running":
        """Submit a request. Raises as `Gateway.generate`."""
        limits_s = [each for each in (inference.time_limit_s, time_left_s) if each is not None]
        is_named = bool(inference.request.request_id)
        events = await gateway.generate(
            caller, inference.request, time_limit_s=min(limits_s, default=None)
        )
        inference.request.Clear()  # an answer takes minutes, and an image megabytes
        return cls(gateway, caller, inference, events, await anext(events), is_named)

    async def close(self) -> None:
        """Detach; a request that has not ended runs on for its orphan timeout."""
        await self.events.aclose()

    async def cancel(self) -> None:
        """End the request. Raises `glm4v.errors`."""
        request_id = self.accepted.accepted.request_id
        await self.gateway.cancel(self.caller, api.CancelRequest(request_id=request_id))

    async def leave(self) -> None:
        """The client has left: detach, and cancel the request unless it may attach to it."""
        await self.close()
        if self.is_named:
            return
        # If it cannot be cancelled, its orphan timeout ends it.
        with anyio.move_on_after(_CANCEL_S, shield=True), suppress(Glm4vError):
            await self.cancel()
