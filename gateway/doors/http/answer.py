"""A whole answer as a response."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.doors.http.connection import while_connected
from gateway.doors.http.errors import ErrorForm, error_response, problem_of
from gateway.doors.http.running import Events, Running
from glm4v.v1 import inference_pb2 as api


@dataclass(slots=True)
class ChoiceAnswer:
    """One complete choice."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[api.TokenLogprobs] = field(default_factory=list)
    finished: api.Finished = field(default_factory=api.Finished)


@dataclass(slots=True)
class Answer:
    """All choices of a request, complete."""

    accepted: api.Accepted
    choices: list[ChoiceAnswer]
    prompt_logprobs: list[api.TokenLogprobs] = field(default_factory=list)


async def collect(accepted: api.Accepted, events: Events) -> Answer:
    """Read events to their end. Raises the error that ended the request."""
    answer = Answer(accepted, [ChoiceAnswer() for _ in range(accepted.n)])
    texts: list[list[str]] = [[] for _ in answer.choices]
    while True:
        try:
            event = await anext(events)
        except StopAsyncIteration:
            break
        choice = answer.choices[event.choice]
        if event.HasField("delta"):
            texts[event.choice].append(event.delta.text)
            choice.token_ids += event.delta.token_ids
            choice.logprobs += event.delta.logprobs
        elif event.HasField("finished"):
            texts[event.choice].append(event.finished.text)
            choice.finished = event.finished
        elif event.HasField("prompt_logprobs"):
            answer.prompt_logprobs += event.prompt_logprobs.tokens
    for choice, parts in zip(answer.choices, texts, strict=True):
        choice.text = "".join(parts)
    return answer


def _no_headers(answer: Answer) -> Mapping[str, str]:
    return {}


class AnswerResponse(Response):
    """Waits for the whole answer and sends it as one body, or its error in the format's form.

    Args:
        running: The request.
        body: Makes the JSON body.
        errors: The form of errors.
        headers: Makes further headers.
    """

    def __init__(
        self,
        running: Running,
        body: Callable[[Answer], bytes],
        errors: ErrorForm,
        headers: Callable[[Answer], Mapping[str, str]] = _no_headers,
    ) -> None:
        super().__init__(media_type="application/json")
        self._running = running
        self._make_body = body
        self._errors = errors
        self._make_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            if not await while_connected(self._run(scope, receive, send), receive):
                await self._running.leave()
        finally:
            await self._running.events.aclose()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = self._running.accepted
        try:
            answer = await collect(accepted, self._running.events)
            body, headers = self._make_body(answer), self._make_headers(answer)
            response = Response(body, 200, headers, media_type="application/json")
        except Exception as error:
            response = error_response(problem_of(error), self._errors)
        response.headers["x-request-id"] = accepted.request_id
        await response(scope, receive, send)
