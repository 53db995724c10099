"""A process that decodes images, restarted whenever it ends."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from glm4v.errors import InvalidRequest, Overloaded
from glm4v.images.decoder import (
    OUT_OF_TIME,
    READY,
    REPLY,
    REQUEST,
    DecoderSettings,
    Status,
    receive,
)

log = logging.getLogger(__name__)

_END_S = 1.0
_DOES_NOT_START = "the image decoder does not start; try again later"


class OutOfCpuTime(Exception):
    """The image exceeded its CPU time."""


class DecoderProcess:
    """Decodes one image at a time in the calling thread; another thread may call `kill`.

    Only the image that crashes the process, or exceeds a limit, is refused: a new process decodes
    the next one.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        command: Sequence[str] | None = None,
        *,
        niceness: int = 0,
    ) -> None:
        self._settings = settings
        self._niceness = niceness
        self._command = command or (sys.executable, "-m", "glm4v.images.decoder")
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_ready = False
        self._since: float | None = None  # start of the current image
        self._worked_s = 0.0  # on earlier images
        self._was_killed = False

    def start(self) -> None:
        """Start the process without waiting for it; logs an error if the system cannot."""
        self.end()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [*self._command, self._settings.as_argument()],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={
                    key: value for key, value in os.environ.items() if "GLM4V_" not in key.upper()
                },
            )
        except OSError as error:
            log.error("cannot start an image decoder: %s", error)
            ours.close()
        else:
            self._socket, self._is_ready = ours, False
            self._lower_priority(self._process.pid)
        finally:
            theirs.close()

    def _lower_priority(self, process: int) -> None:
        if self._niceness:
            niceness = os.getpriority(os.PRIO_PROCESS, process) + self._niceness
            os.setpriority(os.PRIO_PROCESS, process, min(niceness, 19))

    @property
    def busy_s(self) -> float:
        """Seconds spent on the current image; 0 without one."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def worked_s(self) -> float:
        """Seconds spent on all images."""
        return self._worked_s + self.busy_s

    def decode(self, data: bytes, cpu_s: float, within_s: float) -> bytearray:
        """The file as RGB, [size, size, 3].

        Raises InvalidRequest for a file that cannot be decoded, OutOfCpuTime if it takes more than
        `cpu_s`, Overloaded if the process does not answer in time or was killed.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        if self._socket is None:
            raise Overloaded(_DOES_NOT_START)
        self._was_killed = False
        self._since = time.monotonic()
        try:
            self._socket.settimeout(within_s)
            self._await_start(self._socket)
            self._socket.sendall(REQUEST.pack(cpu_s, len(data)))
            self._socket.sendall(data)
            return self._reply(self._socket)
        except TimeoutError as error:
            self.start()
            raise Overloaded(
                f"the image ({len(data)} bytes) was not decoded within {within_s:.3g} s; "
                "send it scaled down, or try again later"
            ) from error
        except (OSError, EOFError) as error:
            raise self._ended(len(data)) from error
        finally:
            self._worked_s += self.busy_s
            self._since = None

    def _await_start(self, decoder: socket.socket) -> None:
        if not self._is_ready and receive(decoder, len(READY)) != READY:
            log.error("an image decoder ended before it was ready")
            raise Overloaded(_DOES_NOT_START)
        self._is_ready = True

    def _reply(self, decoder: socket.socket) -> bytearray:
        header = receive(decoder, REPLY.size)
        if len(header) < REPLY.size:
            raise EOFError
        status, lines, note_length, length = REPLY.unpack(header)
        note, answer = receive(decoder, note_length), receive(decoder, length)
        if len(answer) < length:
            raise EOFError
        if lines:
            log.info("image libraries logged %d lines, the first: %s", lines, _printable(note))
        if status == Status.REFUSED:
            raise InvalidRequest(answer.decode())
        if status == Status.OUT_OF_MEMORY:
            raise InvalidRequest(
                f"the image takes more than {self._settings.memory_bytes >> 20} MiB of memory to "
                "decode; send it scaled down"
            )
        return answer

    def _ended(self, size: int) -> Exception:
        """The error that the end of the process means for its image; starts the next process."""
        assert self._process is not None
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it closed the socket but is running
            code = 0
        self.start()
        if code == -OUT_OF_TIME:
            return OutOfCpuTime()
        if not self._was_killed:
            log.warning("an image decoder exited with code %d on %d bytes", code, size)
        if code == -9:  # probably by the system, for want of memory
            return Overloaded("the image's decoder was killed; try again later")
        return InvalidRequest(
            f"the image ({size} bytes) ends its decoder (status {code}); send it written anew"
        )

    def kill(self) -> None:
        """Abort the current image, which was cancelled."""
        self._was_killed = True
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End the process."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None


def _printable(note: bytearray) -> str:
    return ascii(note.decode(errors="replace"))[1:-1]
