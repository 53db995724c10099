"""Fair sharing between clients: the one with fewest running sequences is served first, and a step
that all share has as many decodes of the others as it can bear (`budget`).

Within one client, and between clients with equally many, the scheduler's order applies.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from lm_worker.engine.sequence import SequenceState


class FairOrder:
    """Sequences in the order of their prefills.

    Args:
        sequences: In the scheduler's order.
        running: All running sequences, in `sequences` or not.
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
        """The next sequence; None after the last."""
        if not self._queues:
            return None
        client = min(self._queues, key=self._key)
        self._unserved.discard(client)
        queue = self._queues[client]
        sequence = queue.popleft()
        if not queue:
            del self._queues[client]
        return sequence

    def discard(self, sequence: SequenceState) -> None:
        """Leave out a sequence, unless it was popped."""
        client = sequence.request.client
        queue = self._queues.get(client, deque())
        if sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._queues[client]
                self._unserved.discard(client)

    @property
    def unserved(self) -> int:
        """Clients without a popped sequence so far."""
        return len(self._unserved)

    def admitted(self, sequence: SequenceState) -> None:
        """Count a popped sequence that was started."""
        self._running[sequence.request.client] += 1

    def _key(self, client: str) -> tuple[int, tuple[int, int]]:
        """Other running sequences of the client, then the scheduler's order of its next one."""
        first = self._queues[client][0]
        return self._running[client] - bool(first.block_table), first.sort_key


def fair_decodes(decodes: Iterable[SequenceState], others: Iterable[SequenceState]) -> int:
    """How many decodes there were if no client had more than the one with fewest sequences.

    `others` are sequences that are not decoding.
    """
    counts = Counter(sequence.request.client for sequence in decodes)
    others_counts = Counter(sequence.request.client for sequence in others)
    fewest = min((counts + others_counts).values(), default=0)
    return sum(min(count, fewest) for count in counts.values())


def share(decodes: Sequence[SequenceState], count: int) -> list[SequenceState]:
    """`count` of the decodes, one of each client in turns: those that were left out for longest.

    In their order.
    """
    if count >= len(decodes):
        return list(decodes)
    queues: dict[str, deque[SequenceState]] = {}
    for sequence in sorted(decodes, key=lambda each: each.decoded_at):
        queues.setdefault(sequence.request.client, deque()).append(sequence)
    chosen: set[int] = set()
    while len(chosen) < count:
        queue = queues.pop(client := next(iter(queues)))
        chosen.add(queue.popleft().sequence_id)
        if queue:
            queues[client] = queue
    return [sequence for sequence in decodes if sequence.sequence_id in chosen]


def last_of_most(running: Sequence[SequenceState]) -> SequenceState:
    """The sequence to preempt when blocks run out; `running` is sorted.

    The last one of the clients with most of them; the first of all only if it is alone.
    """
    counts = Counter(sequence.request.client for sequence in running)
    most = max(counts.values())
    several = (each for each in reversed(running[1:]) if counts[each.request.client] == most)
    return next(several, running[0])


def to_preempt(running: Sequence[SequenceState], client: str) -> SequenceState | None:
    """The sequence to preempt for another one of `client`, unless that would turn the tables."""
    counts = Counter(sequence.request.client for sequence in running)
    is_more = max(counts.values(), default=0) > counts[client] + 1
    return last_of_most(running) if is_more else None


def underserved(clients: Iterable[str], leased: Iterable[str]) -> list[str]:
    """Waiting clients that have less than their share here.

    Args:
        clients: Clients with requests in the queue.
        leased: The client of each request of this worker.
    """
    counts = Counter(leased)
    most = max(counts.values(), default=0)
    return [client for client in clients if counts[client] + 1 < most]
