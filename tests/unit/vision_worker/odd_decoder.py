"""A decoder that does with an image what its width says; everything else is the real one's."""

import os
import signal
import sys
import warnings
from contextlib import suppress

from glm4v.images import ImageLimits, decoder, inspect, pixels

BURNS, ALLOCATES, EXITS, CRASHES, IS_KILLED, STOPS, WARNS = range(1, 8)
SHOWS_ENVIRONMENT = 8

_square = pixels.square


def square(data: bytes, size: int, limits: ImageLimits) -> bytes:
    """In place of the real one."""
    width = inspect(data, limits).width
    if width == BURNS:
        while True:
            pass
    if width == ALLOCATES:
        return bytes(2**40)
    if width == EXITS:
        os._exit(7)
    if width in (CRASHES, IS_KILLED, STOPS):
        signals = {CRASHES: signal.SIGSEGV, IS_KILLED: signal.SIGKILL, STOPS: signal.SIGSTOP}
        os.kill(os.getpid(), signals[width])
    if width == WARNS:
        for number in range(1_000):
            warnings.warn_explicit(f"tag {number}", UserWarning, "library", number)
        with suppress(OSError):  # as C's libraries take no notice of a failed write
            os.write(2, b"libsomething: a line of C\n")
    if width == SHOWS_ENVIRONMENT and any("GLM4V_" in name.upper() for name in os.environ):
        sys.exit("a setting of the service reached the decoder")
    return _square(data, size, limits)


if __name__ == "__main__":
    decoder.main(square)
