"""A facade that answers every request with the events of a test, and the HTTP doors over it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import httpx

from gateway.access.caller import Caller
from gateway.doors.http.app import make_app
from gateway.doors.http.calls import CallMiddleware, Calls
from gateway.doors.http.dialect import Dialect
from gateway.facade import Gateway
from glm4v.process.call_limits import CallLimits
from glm4v.process.health import Health
from glm4v.telemetry.metrics import Registry
from glm4v.v1 import inference_pb2 as api

EOS = 2
SPELLINGS = {EOS: b"</s>", 13: b"am", 319: b" a"}

Script = Sequence[api.GenerationEvent | Exception]


class ScriptedFacade:
    """Answers with a script; an error in it is raised there, one in front refuses the request."""

    def __init__(self, script: Script = ()) -> None:
        self.script = script
        self.requests: list[api.GenerateRequest] = []
        self.time_limits: list[float | None] = []
        self.offsets: list[list[int]] = []
        self.cancelled: list[str] = []

    async def generate(
        self, caller: Caller, request: api.GenerateRequest, *, time_limit_s: float | None
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        self.requests.append(request)
        self.time_limits.append(time_limit_s)
        if self.script and isinstance(self.script[0], Exception):
            raise self.script[0]
        return self._play()

    async def attach(
        self, caller: Caller, request: api.AttachRequest
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        self.offsets.append(list(request.token_offsets))
        return self._play()

    async def cancel(self, caller: Caller, request: api.CancelRequest) -> api.CancelResponse:
        self.cancelled.append(request.request_id)
        return api.CancelResponse(cancelled=True)

    async def model(self, caller: Caller, request: api.GetModelRequest) -> api.GetModelResponse:
        return api.GetModelResponse(
            name="glm4v",
            fingerprint="f" * 8,
            context_tokens=8192,
            eos_token_ids=[EOS],
            server_version="1.2.3",
        )

    def token_bytes(self, token_id: int) -> bytes:
        return SPELLINGS.get(token_id, b"?")

    def is_special(self, token_id: int) -> bool:
        return token_id == EOS

    async def _play(self) -> AsyncGenerator[api.GenerationEvent, None]:
        for event in self.script:
            if isinstance(event, Exception):
                raise event
            yield event


def client(
    facade: ScriptedFacade, dialect: Dialect = Dialect.ORIGINAL, *, is_serving: bool = True
) -> httpx.AsyncClient:
    """A client of all HTTP doors, in this process."""
    health = Health()
    health.set_serving(is_serving)
    app: Any = make_app(health, gateway=cast(Gateway, facade), metrics=Registry(), dialect=dialect)
    wrapped = CallMiddleware(app, Calls(CallLimits(max_message_bytes=2**20)))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(wrapped, raise_app_exceptions=False),
        base_url="http://gateway",
    )


def accepted(max_tokens: int = 20, **fields: Any) -> api.GenerationEvent:
    """The first event."""
    first = api.Accepted(request_id="r", seed=1, n=1, max_tokens=max_tokens)
    first.MergeFrom(api.Accepted(**fields))
    return api.GenerationEvent(accepted=first)


def tokens(
    first: int, *ids: int, text: str = "", logprob: float = -0.1, choice: int = 0
) -> api.GenerationEvent:
    """New tokens."""
    logprobs = [
        api.TokenLogprobs(
            chosen=api.Logprob(token_id=token_id, logprob=logprob),
            top=[api.Logprob(token_id=token_id, logprob=logprob)],
        )
        for token_id in ids
    ]
    delta = api.Delta(first_index=first, token_ids=ids, text=text, logprobs=logprobs)
    return api.GenerationEvent(choice=choice, delta=delta)


def finished(
    generated: int,
    reason: Any = api.FINISH_REASON_STOP,
    *,
    text: str = "",
    choice: int = 0,
    **matched: Any,
) -> api.GenerationEvent:
    """The end of a choice: at the model's end token unless told otherwise."""
    if reason == api.FINISH_REASON_STOP and not matched:
        matched = {"stop_token_id": EOS}
    usage = api.Usage(prompt_tokens=6, image_tokens=1602, completion_tokens=generated)
    timings = api.Timings(time_to_first_token_s=0.25, decode_s=1.5, total_s=2.0)
    return api.GenerationEvent(
        choice=choice,
        finished=api.Finished(reason=reason, text=text, usage=usage, timings=timings, **matched),
    )
