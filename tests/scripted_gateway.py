"""A gateway that answers every request alike, and breaks off where a test says."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from threading import Event
from typing import Any

import grpc

from glm4v.status import mark
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1 import inference_pb2_grpc as rpc

ANSWER = ["一", "", "只", " cat", "", "!"]  # text of each token; token i has id 100 + i

GenerationEvents = Iterator[pb.GenerationEvent]


def delta(first: int, count: int = 1) -> pb.GenerationEvent:
    indices = range(first, first + count)
    return pb.GenerationEvent(
        delta=pb.Delta(
            first_index=first,
            token_ids=[100 + i for i in indices],
            text="".join(ANSWER[i] for i in indices),
            logprobs=[
                pb.TokenLogprobs(
                    chosen=pb.Logprob(token_id=100 + i, logprob=-0.5),
                    top=[pb.Logprob(token_id=9, logprob=-0.25)],
                )
                for i in indices
            ],
        )
    )


def accepted(request_id: str) -> pb.GenerationEvent:
    return pb.GenerationEvent(
        accepted=pb.Accepted(request_id=request_id, prompt_tokens=3, prompt_ids=[1, 2, 3])
    )


def progress(stage: "pb.Stage.ValueType") -> pb.GenerationEvent:
    return pb.GenerationEvent(progress=pb.Progress(stage=stage))


STAGES = [progress(pb.STAGE_QUEUED), progress(pb.STAGE_ENCODING), progress(pb.STAGE_RUNNING)]
FINISHED = pb.GenerationEvent(
    finished=pb.Finished(
        reason=pb.FINISH_REASON_LENGTH,
        text="。",
        usage=pb.Usage(prompt_tokens=3, image_tokens=18, completion_tokens=len(ANSWER)),
        timings=pb.Timings(vision_s=0.25, time_to_first_token_s=0.5, decode_s=2.5, total_s=4),
    )
)


def whole(request_id: str, offset: int = 0) -> list[pb.GenerationEvent]:
    """Every event after the first `offset` tokens, as a gateway replays them."""
    stages = STAGES if offset == 0 else []
    deltas = [delta(i) for i in range(offset, len(ANSWER))]
    return [accepted(request_id), *stages, *deltas, FINISHED]


def choices(request_id: str, texts: list[str]) -> list[pb.GenerationEvent]:
    """A request for several answers, of one token each; the last one is complete first."""
    begin = pb.Accepted(request_id=request_id, prompt_tokens=3, n=len(texts))
    usage = pb.Usage(prompt_tokens=3, completion_tokens=1)
    ends = []
    for index, text in reversed(list(enumerate(texts))):
        piece = pb.Delta(token_ids=[100], text=text)
        end = pb.Finished(reason=pb.FINISH_REASON_STOP, usage=usage)
        ends.append(pb.GenerationEvent(choice=index, delta=piece))
        ends.append(pb.GenerationEvent(choice=index, finished=end))
    return [pb.GenerationEvent(accepted=begin), *ends]


class ScriptedGateway(rpc.InferenceServiceServicer):
    """Sends `whole` and breaks off where a test says."""

    def __init__(self, breaks: list[int]) -> None:
        self.breaks = breaks  # events sent before each break; afterwards all are
        self.calls: list[tuple[str, str, int]] = []
        self.cancelled: list[str] = []
        self.requests: list[pb.GenerateRequest] = []
        self.left = Event()
        self.status = (grpc.StatusCode.UNAVAILABLE, "Redis is away")
        self.is_marked = True  # as those of a gateway are, and those of a proxy are not
        self.hangs = False
        self.several: list[str] = []  # instead of the answer, texts of several
        self.images: set[str] = set()  # digests of those that are stored
        self.metadata: list[dict[str, str | bytes]] = []  # of each call that starts a request

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.calls.append(("generate", request.request_id, 0))
        digest = self._store(request, context)
        for event in self._events(request.request_id, 0, context):
            if event.HasField("accepted"):
                event.accepted.image_digest = digest
            yield pb.GenerateResponse(event=event)

    def Attach(self, request: pb.AttachRequest, context: Any) -> Iterator[pb.AttachResponse]:
        self.calls.append(("attach", request.request_id, next(iter(request.token_offsets), 0)))
        for event in self._events(
            request.request_id, next(iter(request.token_offsets), 0), context
        ):
            if event.HasField("accepted"):  # it was not asked for them
                del event.accepted.prompt_ids[:]
            yield pb.AttachResponse(event=event)

    def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        self.cancelled.append(request.request_id)
        return pb.CancelResponse(cancelled=len(self.cancelled) == 1)

    def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        if self.breaks:
            self.breaks.pop()
            self._end(context)
        return pb.CountTokensResponse(prompt_tokens=len(request.messages[0].parts[0].text))

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(name="micro")

    def _store(self, request: pb.GenerateRequest, context: Any) -> str:
        """The digest of the image; empty without one."""
        image = next((part.image for part in request.messages[0].parts if part.image.data), None)
        if image is not None:
            digest = sha256(image.data).hexdigest()
            self.images.add(digest)
            return digest
        digests = (part.image.digest for part in request.messages[0].parts)
        named = next(filter(None, digests), "")
        if named and named not in self.images:
            context.set_trailing_metadata((mark("NOT_FOUND"),))
            context.abort(grpc.StatusCode.NOT_FOUND, f"no image {named}")
        return named

    def _events(self, request_id: str, offset: int, context: Any) -> GenerationEvents:
        context.add_callback(self.left.set)
        if self.several:
            yield from choices(request_id, self.several)
            return
        count = self.breaks.pop(0) if self.breaks else None
        yield from whole(request_id, offset)[:count]
        if count is None:
            return
        if self.hangs:
            while context.is_active():
                time.sleep(0.01)
        if self.status[0] != grpc.StatusCode.OK:
            self._end(context)

    def _end(self, context: Any) -> None:
        if self.is_marked:
            context.set_trailing_metadata((mark(self.status[0].name),))
        context.abort(*self.status)


@contextmanager
def serving(
    gateway: ScriptedGateway, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[str, grpc.Server]]:
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 2**20)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    rpc.add_InferenceServiceServicer_to_server(gateway, server)
    address = f"127.0.0.1:{port}"
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        server.stop(0).wait()
