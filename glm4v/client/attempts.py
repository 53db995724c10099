"""How often, how long and when a call is tried again. No input or output happens here."""

import random
import time

from glm4v.client.failure import BrokenOff
from glm4v.errors import DeadlinePassed, Glm4vError, InvalidRequest, Unavailable

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_MIN_TIMEOUT_S = 0.001
_MAX_TIMEOUT_S = 1e8  # three years; gRPC counts nanoseconds and overflows at 292
_MAX_BREAKS = 5  # of a call that no gateway has accepted yet
_MANY_BYTES = 2**20  # what nginx takes unless told otherwise; other proxies take more


class Attempts:
    """The attempts at one call until its deadline: exponential backoff with jitter.

    Args:
        size: The bytes of the request, for the advice about proxies.
        timeout_s: Seconds until the deadline.
        retry_timeout_s: Seconds from the first failure during which a call is tried again that no
            gateway has accepted.

    Attributes:
        total_s: The given `timeout_s`.
    """

    def __init__(self, size: int, *, timeout_s: float, retry_timeout_s: float) -> None:
        self._size = size
        self.total_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._breaks = 0
        self._outage_began: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    @property
    def timeout_s(self) -> float:
        """Seconds left until the deadline, within gRPC's limits of a timeout."""
        return min(max(self._deadline - time.monotonic(), _MIN_TIMEOUT_S), _MAX_TIMEOUT_S)

    @property
    def outage_s(self) -> float:
        """Seconds since the first of the failures in a row."""
        return 0.0 if self._outage_began is None else time.monotonic() - self._outage_began

    def succeeded(self) -> None:
        """The gateway answered: the next failure begins another outage."""
        self._outage_began = None
        self._pause_s = _FIRST_PAUSE_S

    def pause_after(self, failure: Glm4vError, *, is_accepted: bool) -> float:
        """Seconds to wait before the next attempt. Raises the failure if there is none.

        The time is `retry_timeout_s`, and the number of broken calls is limited, until the request
        is accepted; then it is the deadline.
        """
        if not isinstance(failure, Unavailable):
            raise failure
        if not is_accepted:
            self._count_break(failure)
        now = time.monotonic()
        if self._outage_began is None:
            self._outage_began = now
        until = self._deadline
        if not is_accepted:
            until = min(until, self._outage_began + self._retry_timeout_s)
        if now >= self._deadline:
            raise DeadlinePassed(f"no complete answer within {self.total_s:g} s; {failure}")
        if now >= until:
            raise failure
        pause_s = min(until - now, self._pause_s * random.uniform(0.5, 1))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def _count_break(self, failure: Unavailable) -> None:
        """A proxy may reject a call without saying so: limit what cannot be chance."""
        self._breaks += isinstance(failure, BrokenOff)
        if self._breaks < _MAX_BREAKS:
            return
        advice = ""
        if self._size > _MANY_BYTES:
            advice = (
                f"; the message has {self._size} bytes: does a proxy limit that "
                "(nginx: client_max_body_size)?"
            )
        raise BrokenOff(f"{failure}, {self._breaks} times{advice}")


def check_timeout(name: str, seconds: float) -> float:
    """The seconds. Raises InvalidRequest unless they are above 0; infinity means no timeout."""
    if not seconds > 0:  # not-a-number fails too
        raise InvalidRequest(f"{name} is {seconds:g}; it must be above 0 (inf: no timeout)")
    return seconds
