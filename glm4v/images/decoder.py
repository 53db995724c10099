"""A process that decodes images and may be killed at any time: `python -m glm4v.images.decoder`.

Its standard input is a socket. Each request is a header and a file, each reply a header, a note and
what `Status` says. The memory of the process and the processor time of each image are bounded by
the system, so that no file can take more, whatever a library makes of it.
"""

import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO

from PIL import Image

from glm4v.errors import InvalidRequest
from glm4v.images.limits import ImageLimits
from glm4v.images.pixels import square

REQUEST = struct.Struct("<dQ")  # seconds of processor time, bytes of the file
REPLY = struct.Struct(
    "<BIHQ"
)  # status, lines that libraries wrote, bytes of the first, of the rest

READY = b"+"  # comes before the first reply
OUT_OF_TIME = signal.SIGPROF  # what ends the process when an image's time is up
_MOST_NOTES = 2**16  # bytes of what libraries write that are kept
_MOST_NOTE = 200

Decode = Callable[[bytes, int, ImageLimits], bytes]  # file, size -> RGB

_MEMORY_IN_PAGES = Path("/proc/self/statm")


class Status(IntEnum):
    """What a reply brings."""

    PIXELS = 0  # RGB, [size, size, 3] bytes
    REFUSED = 1  # the text of an InvalidRequest
    OUT_OF_MEMORY = 2  # nothing


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What a decoder is started with."""

    limits: ImageLimits
    size: int  # pixels of the square on a side
    memory_bytes: int  # beyond what the process takes when it starts

    def as_argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_argument(cls, text: str) -> "DecoderSettings":
        """What `as_argument` gave."""
        fields = json.loads(text)
        return cls(ImageLimits(**fields.pop("limits")), **fields)


def main(decode: Decode = square) -> None:
    """Serve until the other end of the socket is closed."""
    settings = DecoderSettings.of_argument(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the parent
        signal.signal(number, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = None  # headers are held to our limits before Pillow sees a file
    _bound(settings.memory_bytes)
    with _captured_stderr() as notes, socket.socket(fileno=os.dup(0)) as parent:
        parent.sendall(READY)
        while (file := _request(parent)) is not None:
            status, answer = _answer(decode, file, settings)
            signal.setitimer(signal.ITIMER_PROF, 0)
            lines, note = _taken(notes)
            header = REPLY.pack(status, lines, len(note), len(answer))
            parent.sendall(header + note + answer)


def _bound(memory_bytes: int) -> None:
    if _MEMORY_IN_PAGES.exists():  # Linux; elsewhere the system does not hold to such a bound
        used = int(_MEMORY_IN_PAGES.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_NOTES, _MOST_NOTES))


@contextmanager
def _captured_stderr() -> Iterator[IO[bytes]]:
    """A file that takes what libraries write, of C too; in memory, where there is such a thing."""
    if sys.platform == "linux":
        notes: IO[bytes] = os.fdopen(os.memfd_create("notes"), "r+b", buffering=0)
    else:
        notes = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed below
    with notes:
        os.dup2(notes.fileno(), 2)
        # Without a buffer: what no longer fits is lost, and does not fail later.
        raw = io.FileIO(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)
        yield notes


def _taken(notes: IO[bytes]) -> tuple[int, bytes]:
    """How many lines were written since the last time, and the first one."""
    notes.seek(0)
    text = notes.read()
    notes.truncate(0)
    os.lseek(2, 0, os.SEEK_SET)
    return text.count(b"\n"), text.partition(b"\n")[0][:_MOST_NOTE]


def _request(parent: socket.socket) -> bytearray | None:
    header = receive(parent, REQUEST.size)
    if not header:
        return None
    processor_s, length = REQUEST.unpack(header)
    file = receive(parent, length)
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    return file


def _answer(decode: Decode, file: bytearray, settings: DecoderSettings) -> tuple[Status, bytes]:
    try:
        return Status.PIXELS, decode(bytes(file), settings.size, settings.limits)
    except InvalidRequest as error:
        return Status.REFUSED, str(error).encode()
    except MemoryError:
        return Status.OUT_OF_MEMORY, b""


def receive(other: socket.socket, length: int) -> bytearray:
    """So many bytes; fewer when the other end is closed before."""
    received = bytearray(length)
    view, got = memoryview(received), 0
    while got < length and (count := other.recv_into(view[got:])):
        got += count
    view.release()
    del received[got:]
    return received


if __name__ == "__main__":
    main()
