"""Clients share the engine: whoever has fewest sequences running comes first, and may take a place.

Within one client, and among clients with as many running sequences, the scheduler's order counts.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from lm_worker.engine.sequence import SequenceState


class FairOrder:
    """Sequences in the order in which they are to be prefilled.

    Args:
        sequences: In the scheduler's order.
        running: All that run, whether they are among `sequences` or not.
    """

    def __init__(
        self, sequences: Iterable[SequenceState], running: Iterable[SequenceState]
    ) -> None:
        self._running = Counter(sequence.request.client for sequence in running)
        self._queues: dict[str, deque[SequenceState]] = {}
        for sequence in sequences:
            self._queues.setdefault(sequence.request.client, deque()).append(sequence)
        self._unserved = set(self._queues)

    def pop(self) -> SequenceState | None:
        """The next one; None behind the last."""
        if not self._queues:
            return None
        client = min(self._queues, key=self._key)
        self._unserved.discard(client)
        queue = self._queues[client]
        sequence = queue.popleft()
        if not queue:
            del self._queues[client]
        return sequence

    @property
    def unserved(self) -> int:
        """Clients of whom none was popped yet."""
        return len(self._unserved)

    def admitted(self, sequence: SequenceState) -> None:
        """One that was popped, and did not run, runs now."""
        self._running[sequence.request.client] += 1

    def _key(self, client: str) -> tuple[int, tuple[int, int]]:
        """How many others of the client run beside its next one; then by the scheduler's order."""
        first = self._queues[client][0]
        return self._running[client] - bool(first.block_table), first.sort_key


def last_of_most(running: Sequence[SequenceState]) -> SequenceState:
    """Which of the sequences that run, sorted, is preempted when there are too few blocks.

    The last one of the clients with most of them; the first of all only where it is alone.
    """
    counts = Counter(sequence.request.client for sequence in running)
    most = max(counts.values())
    several = (each for each in reversed(running[1:]) if counts[each.request.client] == most)
    return next(several, running[0])


def to_preempt(running: Sequence[SequenceState], client: str) -> SequenceState | None:
    """The same, to make place for another one of a client: if it keeps as many as that then has."""
    counts = Counter(sequence.request.client for sequence in running)
    is_more = max(counts.values(), default=0) > counts[client] + 1
    return last_of_most(running) if is_more else None


def underserved(clients: Iterable[str], held: Iterable[str]) -> list[str]:
    """Those of the clients that wait who have less here than their part.

    Args:
        clients: Whose requests wait elsewhere.
        held: The client of each request that is here.
    """
    counts = Counter(held)
    most = max(counts.values(), default=0)
    return [client for client in clients if counts[client] + 1 < most]
