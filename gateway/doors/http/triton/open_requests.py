"""The running requests of this gateway, by the ids that their clients gave them."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.doors.http.running import Running


class OpenRequests:
    """An id belongs to the owner of its request, and need not be unique."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], list[Running]] = {}

    @contextmanager
    def listed(self, request_id: str, running: Running) -> Iterator[None]:
        """List a request as long as it is answered; one without an id cannot be found."""
        key = (running.terms.caller.owner, request_id)
        if request_id:
            self._running.setdefault(key, []).append(running)
        try:
            yield
        finally:
            if request_id:
                self._running[key].remove(running)
                if not self._running[key]:
                    del self._running[key]

    def find(self, owner: str, request_id: str) -> list[str]:
        """The gateway's ids of an owner's requests with this id."""
        found = self._running.get((owner, request_id), [])
        return [each.accepted.request_id for each in found]
