"""The stream of a request, which survives lost connections and gateways."""

import contextlib
from collections.abc import Callable, Iterator
from threading import Event
from types import TracebackType
from typing import Protocol

import grpc

from glm4v.client.answer import Answer
from glm4v.client.session import Session
from glm4v.errors import Glm4vError
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub


class _Events(Protocol):
    """What gRPC gives for a stream of replies."""

    def __next__(self) -> pb.GenerateResponse | pb.AttachResponse: ...

    def cancel(self) -> object: ...


class Generation(Answer[InferenceServiceStub]):
    """An iterator of `GenerationEvent`: accepted, progress and deltas, finished for each choice.

    Use it as a context manager: leaving it early cancels a request that `generate` started, and
    leaves one that `attach` joined running. After a lost connection it attaches again where it was,
    so that no event is lost or repeated. It raises the errors of `glm4v.errors`. One thread reads
    it; another one may close it.
    """

    def __init__(
        self,
        session: Session[grpc.Channel, InferenceServiceStub],
        request: pb.GenerateRequest | pb.AttachRequest,
        timeout_s: float | None,
        cancel: Callable[[str], object],
    ) -> None:
        super().__init__(session, request, timeout_s)
        self._cancel = cancel
        self._closed = Event()
        self._target, self._call = self._open()

    @property
    def text(self) -> str:
        """The text of the first choice; reads the stream to its end."""
        for _ in self:
            pass
        return self.choices[0].text

    def texts(self) -> Iterator[str]:
        """The text of the first choice in pieces, as they become final."""
        for event in self:
            piece = event.delta.text or event.finished.text
            if piece and event.choice == 0:
                yield piece

    def close(self) -> None:
        """Stop reading. Cancels the request if `generate` started it and it has not ended."""
        if self._is_over:
            return
        self._is_over = True
        self._closed.set()
        if self._is_ours:
            # If no gateway answers, the orphan timeout ends the request.
            with contextlib.suppress(Glm4vError):
                self._cancel(self.request_id)
        self._call.cancel()

    def __iter__(self) -> Iterator[pb.GenerationEvent]:
        return self

    def __next__(self) -> pb.GenerationEvent:
        while not self._is_over:
            error = None
            try:
                event = next(self._call).event
            except StopIteration:
                pass
            except grpc.RpcError as caught:
                error = caught
            else:
                if self._record(event, self._target):
                    return event
                continue
            self._reconnect(self._failure(error, self._target))
        raise StopIteration

    def __enter__(self) -> "Generation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> tuple[str, _Events]:
        gateway = self._session.gateways.current()
        request, timeout_s = self._next_call(), self._attempts.timeout_s
        metadata = self._session.metadata
        if isinstance(request, pb.GenerateRequest):
            return gateway.target, gateway.stub.Generate(
                request, timeout=timeout_s, metadata=metadata
            )
        return gateway.target, gateway.stub.Attach(request, timeout=timeout_s, metadata=metadata)

    def _reconnect(self, failure: Glm4vError) -> None:
        if self._is_over:  # closed by another thread
            raise failure from None
        self._closed.wait(self._pause_after(failure))
        if not self._is_over:
            self._target, self._call = self._open()
