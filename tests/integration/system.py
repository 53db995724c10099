"""The running system, as a test sees it: a gateway's address and a few calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

TIMEOUT_S = 60.0
GREEDY = api.SamplingParams(temperature=0)


@dataclass
class Answer:
    """A whole answer."""

    request_id: str = ""
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    image_digest: str = ""
    finished: api.Finished = field(default_factory=api.Finished)

    def take(self, event: api.GenerationEvent) -> None:
        """Add an event; checks the order of the contract."""
        kind = event.WhichOneof("event")
        assert not self.finished.HasField("usage"), f"{kind} behind finished"
        if kind == "accepted":
            self.request_id = event.accepted.request_id
            self.prompt_ids = list(event.accepted.prompt_ids)
            self.image_digest = event.accepted.image_digest
        elif kind == "delta":
            assert event.delta.first_index == len(self.token_ids)
            self.token_ids += event.delta.token_ids
            self.text += event.delta.text
        elif kind == "finished":
            self.finished = event.finished
            self.text += event.finished.text


class System:
    """Calls to one gateway, where it serves HTTP, and where its Redis is."""

    def __init__(
        self, target: str, http_url: str | None, redis_url: str, channel: grpc.aio.Channel
    ) -> None:
        assert http_url is not None
        self.target = target
        self.http_url = http_url
        self.redis_url = redis_url
        self.stub = InferenceServiceStub(channel)

    async def ask(self, messages: Sequence[api.Message], **fields: Any) -> Answer:
        """A whole answer, greedy unless told otherwise; gRPC errors are raised."""
        fields.setdefault("sampling", GREEDY)
        fields.setdefault("ignore_eos", True)
        fields.setdefault("max_tokens", 20)
        request = api.GenerateRequest(messages=messages, return_prompt_ids=True, **fields)
        answer = Answer()
        async for reply in self.stub.Generate(request, timeout=TIMEOUT_S):
            answer.take(reply.event)
        assert answer.finished.usage.completion_tokens == len(answer.token_ids)
        return answer


def user(text: str = "", image: bytes | None = None, digest: str = "") -> api.Message:
    """A message of the user."""
    parts = [api.ContentPart(text=text)] if text else []
    if image is not None:
        parts.insert(0, api.ContentPart(image=api.Image(data=image)))
    if digest:
        parts.insert(0, api.ContentPart(image=api.Image(digest=digest)))
    return api.Message(role=api.ROLE_USER, parts=parts)
