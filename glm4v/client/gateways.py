"""The gateways that a client may use, and its connections to them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import randrange
from threading import Lock
from typing import Generic, TypeVar

from glm4v.errors import InvalidRequest

_Channel = TypeVar("_Channel")
_Stub = TypeVar("_Stub")


@dataclass(frozen=True, slots=True)
class Gateway(Generic[_Channel, _Stub]):
    """A gateway and the connection to it."""

    target: str
    channel: _Channel
    stub: _Stub


class Gateways(Generic[_Channel, _Stub]):
    """Gateways with a common Redis, each of which knows the requests of the others.

    Every call uses the same gateway until it fails, and then the next one. The first is chosen at
    random, so that many clients spread over all. For any thread of the process that opened it.
    """

    def __init__(
        self,
        targets: Sequence[str],
        open_channel: Callable[[str], _Channel],
        make_stub: Callable[[_Channel], _Stub],
    ) -> None:
        self._targets = targets
        self._open_channel = open_channel
        self._make_stub = make_stub
        self._opened: dict[str, Gateway[_Channel, _Stub]] = {}
        self._current = randrange(len(targets))
        self._pid = os.getpid()
        self._is_closed = False
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def current(self) -> Gateway[_Channel, _Stub]:
        """The gateway to call. Raises InvalidRequest after `close`, and in a forked process."""
        if self._pid != os.getpid():
            raise InvalidRequest(
                f"this client was opened in process {self._pid}, and a fork cannot share its "
                f"connections; open one in process {os.getpid()}"
            )
        with self._lock:
            if self._is_closed:
                raise InvalidRequest("this client is closed; open another one")
            target = self._targets[self._current]
            if target not in self._opened:
                channel = self._open_channel(target)
                self._opened[target] = Gateway(target, channel, self._make_stub(channel))
            return self._opened[target]

    def leave(self, target: str) -> None:
        """A gateway has failed: use the next one, unless another call has left it already."""
        with self._lock:
            if self._targets[self._current] == target:
                self._current = (self._current + 1) % len(self._targets)

    def close(self) -> list[_Channel]:
        """Refuse all calls from now on. Returns the channels, for the caller to close."""
        with self._lock:
            self._is_closed = True
            return [gateway.channel for gateway in self._opened.values()]
