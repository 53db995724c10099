"""An HTTP/2 client without manners: it sends what gRPC libraries would not."""

import asyncio
import contextlib
import struct
from collections import Counter
from types import TracebackType

import grpc
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 15_000  # bytes that a call may send which nobody reads, and some less
EMPTY = bytes(5)  # a gRPC message of no bytes

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 4  # of the settings
_FRAME = 16_384  # bytes of payload that everybody has to take
_WINDOW_S = 0.05  # for the server to take more
_NAMES = {str(code.value[0]): code.name for code in grpc.StatusCode}
SERVICE = "/glm4v.v1.InferenceService/"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return struct.pack(">I", len(payload) << 8 | kind) + struct.pack(">BI", flags, stream) + payload


def enveloped(message: bytes, size: int | None = None) -> bytes:
    """A message as gRPC sends it, or its beginning where `size` says that it is longer."""
    return b"\0" + struct.pack(">I", len(message) if size is None else size) + message


class RawClient:
    """One connection. `statuses` counts how streams were ended, "reset" among gRPC's names.

    Args:
        statuses: Of several connections together, when one is given.
    """

    def __init__(
        self, target: str, source: str = "127.0.0.1", statuses: Counter[str] | None = None
    ) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._source = source
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._next_stream = 1
        self._news = asyncio.Event()
        self._window = 65_535  # bytes that the server takes on this connection
        self.statuses: Counter[str] = Counter() if statuses is None else statuses
        self._ended: set[int] = set()
        self._call_windows: dict[int, int] = {}  # bytes that it takes in a call
        self._call_window = 65_535  # of a new one
        self.is_refused = False  # the server ended the connection

    async def __aenter__(self) -> "RawClient":
        self._reader, self._writer = await asyncio.open_connection(
            self._host, int(self._port), local_addr=(self._source, 0)
        )
        self._writer.write(PREFACE + frame(_SETTINGS, 0, 0))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.transport.abort()

    async def open(self, method: str) -> int:
        """Begin a call of a method of `SERVICE`, and send no message."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", SERVICE + method),
                (":authority", self._host),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
        )
        self._call_windows[stream] = self._call_window
        await self._send(frame(_HEADERS, _END_HEADERS, stream, headers))
        return stream

    async def ask(self, method: str, message: bytes) -> None:
        """A whole call, as others make it."""
        stream = await self.open(method)
        await self._send(frame(_DATA, _END_STREAM, stream, enveloped(message)))

    async def upload(self, stream: int, data: bytes) -> None:
        """Send a call's last bytes as fast as the server takes them, and until it ends the call."""
        sent = 0
        while sent < len(data) and stream not in self._ended and not self.is_refused:
            size = min(len(data) - sent, _FRAME, self._window, self._call_windows[stream])
            if size <= 0:
                await self._wait_for_news()
                continue
            self._window -= size
            self._call_windows[stream] -= size
            is_last = sent + size == len(data)
            piece = data[sent : sent + size]
            await self._send(frame(_DATA, _END_STREAM if is_last else 0, stream, piece))
            sent += size

    async def data(self, stream: int, *pieces: bytes) -> None:
        """Send a frame for each piece; nothing while the server takes no more."""
        size = sum(map(len, pieces))
        if self._window < size:
            await asyncio.sleep(_WINDOW_S)
        if self._window >= size:
            self._window -= size
            await self._send(b"".join(frame(_DATA, 0, stream, piece) for piece in pieces))

    async def reset(self, stream: int) -> None:
        """Cancel a call."""
        await self._send(frame(_RESET, 0, stream, struct.pack(">I", 8)))

    async def ended(self, count: int) -> None:
        """Wait until so many streams have ended."""
        while len(self._ended) < count and not self.is_refused:
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _send(self, data: bytes) -> None:
        if self.is_refused:
            return
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            self.is_refused = True

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                size_and_kind, flags, stream = struct.unpack(">IBI", head)
                payload = await self._reader.readexactly(size_and_kind >> 8)
                await self._take(size_and_kind & 0xFF, flags, stream, payload)
                self._news.set()
        self.is_refused = True
        self._news.set()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
            await self._send(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            await self._send(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._grow(stream, int(struct.unpack(">I", payload)[0]))
        elif kind == _DATA and payload:
            await self._send(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        elif kind == _RESET:
            self._end(stream, "reset")
        elif kind == _GOAWAY:
            self.is_refused = True
        elif kind == _HEADERS:
            headers = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if "grpc-status" in headers:
                self._end(stream, _NAMES[headers["grpc-status"]])

    def _set(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == _INITIAL_WINDOW:
                change, self._call_window = value - self._call_window, value
                for stream in self._call_windows:
                    self._call_windows[stream] += change

    def _grow(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif stream in self._call_windows:
            self._call_windows[stream] += size

    def _end(self, stream: int, status: str) -> None:
        self._call_windows.pop(stream, None)
        if stream not in self._ended:  # a status is followed by a reset where we have not ended
            self._ended.add(stream)
            self.statuses[status] += 1
