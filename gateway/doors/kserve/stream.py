"""One call of ModelStreamInfer: requests in any number, and the pieces of their answers, mixed.

requests ── read one by one, each until it is accepted ── a task for each answer ─┐
replies  ◄── a queue of a few pieces: answers wait for a slow client ─────────────┘
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from gateway.access.caller import Caller
from gateway.doors.kserve import grpc_service_pb2 as pb
from gateway.doors.kserve.inference import Inference
from gateway.doors.kserve.messages import read_request
from gateway.doors.kserve.model import check_model
from gateway.doors.kserve.pieces import Pieces, check_one_choice, end_of
from gateway.doors.kserve.running import Running
from gateway.facade import Gateway
from glm4v.errors import Glm4vError, InvalidRequest, Unavailable
from glm4v.v1 import inference_pb2 as api

_AHEAD = 8  # pieces that wait for the client
_MAX_RUNNING = 128  # requests of one stream; further ones are read when one has ended

_Reply = pb.ModelStreamInferResponse


class InferStream:
    """Answers the requests of one call.

    A request that fails is answered in the stream, which goes on. Unavailable, and what is a bug,
    ends it: the client then has to start another one, on another gateway if this one stops.

    Args:
        gateway: Runs the requests.
        caller: Their owner.
        time_remaining: Of the call, in seconds; None without a deadline.
        idle: Set while no request runs (see `glm4v.process.message_stream`).
    """

    def __init__(
        self,
        gateway: Gateway,
        caller: Caller,
        *,
        time_remaining: Callable[[], float | None],
        idle: asyncio.Event,
    ) -> None:
        self._gateway = gateway
        self._caller = caller
        self._time_remaining = time_remaining
        self._idle = idle
        self._replies: asyncio.Queue[_Reply | Exception | None] = asyncio.Queue(_AHEAD)
        self._running: dict[asyncio.Task[None], Running] = {}

    async def replies(
        self, requests: AsyncIterator[pb.ModelInferRequest]
    ) -> AsyncGenerator[_Reply, None]:
        """Pieces as they are made, until all requests are answered.

        A client that leaves cancels the requests that it has not named. Raises Unavailable, and
        what is wrong with a message.
        """
        reading = asyncio.create_task(self._read(requests))
        has_left = True
        try:
            while (reply := await self._replies.get()) is not None:  # requests have deadlines
                if isinstance(reply, Exception):
                    has_left = False
                    raise reply
                yield reply
        finally:
            await _cancelled(reading)  # first: it may be accepting another request
            running = list(self._running.values())
            await _cancelled(*self._running)
            end = Running.leave if has_left else Running.close
            await asyncio.gather(*map(end, running))

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        """Accept requests up to the last one, then wait for their answers."""
        try:
            async for message in requests:
                while len(self._running) >= _MAX_RUNNING:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                await self._accept(message)
                del message  # and its image
            while self._running:
                await asyncio.wait(self._running)
            await self._replies.put(None)
        except Exception as error:
            await self._replies.put(error)

    async def _accept(self, message: pb.ModelInferRequest) -> None:
        """Start to answer a request, or to end one."""
        request_id = message.id
        try:
            model = await self._gateway.model(self._caller, api.GetModelRequest())
            check_model(model, message.model_name, message.model_version)
            inference = read_request(message)
            if inference.is_stop:
                await self._stop(inference, model.name)
                return
            check_one_choice(inference)
            running = await Running.start(
                self._gateway, self._caller, inference, self._time_remaining()
            )
        except Unavailable:
            raise
        except Glm4vError as error:
            await self._replies.put(_failure(request_id, error))
            return
        task = asyncio.create_task(self._answer(running, model.name))
        self._running[task] = running
        self._idle.clear()
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not self._running:
            self._idle.set()

    async def _stop(self, inference: Inference, model_name: str) -> None:
        """Cancel the running requests that have the id of this one, and say that it is done."""
        found = [each for each in self._running.values() if each.inference.id == inference.id]
        if not found:
            raise InvalidRequest("no request of this stream runs that has this id")
        for running in found:
            await running.cancel()
        await self._replies.put(end_of(inference, model_name))

    async def _answer(self, running: Running, model_name: str) -> None:
        """Put the pieces of an answer into the queue."""
        pieces = Pieces(running.inference, model_name, running.accepted)
        try:
            async for event in running.events:
                for piece in pieces.take(event):
                    await self._replies.put(piece)
        except Unavailable as error:
            await self._replies.put(error)
        except Glm4vError as error:
            await self._replies.put(_failure(running.inference.id, error))
        except Exception as error:  # a bug: the call ends as any other does
            await self._replies.put(error)


def _failure(request_id: str, error: Glm4vError) -> _Reply:
    """Clients drop all of a reply but this text, so the id is in it."""
    return _Reply(error_message=f"request {request_id!r}: {error}" if request_id else str(error))


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
