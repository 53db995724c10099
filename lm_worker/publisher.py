"""Appends the engine's output to the journals of the requests whose leases this worker has."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.broker.retry import retry_until_available
from glm4v.errors import Glm4vError
from glm4v.internal.v1 import journal_pb2 as pb
from lm_worker.engine.sequence import TokenOutput
from lm_worker.translate import failed_end, journal_entries, now_ms

log = logging.getLogger(__name__)

# Between two publications, if steps are shorter: each costs Redis, the gateway and the client about
# as much as the next, and nobody reads faster.
PUBLISH_INTERVAL_S = 0.01


@dataclass(eq=False, slots=True)
class LeasedRequest:
    """A request that this worker runs under one lease."""

    lease: RequestLease
    job: pb.Job
    sequence_id: int | None = None  # once the engine has it

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.lease.request_id


class Publisher:
    """The leased requests, by id, and the only writer of their journals.

    A request leaves when it ends, or when another worker took its lease.
    """

    def __init__(self, queue: LmQueue) -> None:
        self._queue = queue
        self._leased: dict[str, LeasedRequest] = {}

    @property
    def request_ids(self) -> set[str]:
        """The ids of the leased requests."""
        return set(self._leased)

    @property
    def clients(self) -> list[str]:
        """The client of each leased request."""
        return [leased.job.client for leased in self._leased.values()]

    def add(self, leased: LeasedRequest) -> None:
        """Publish for a request from now on."""
        self._leased[leased.request_id] = leased

    def discard(self, request_id: str) -> LeasedRequest | None:
        """Publish for a request no longer; returns it if it was leased."""
        return self._leased.pop(request_id, None)

    def clear(self) -> list[LeasedRequest]:
        """Publish nothing any more; returns all requests."""
        leased = list(self._leased.values())
        self._leased.clear()
        return leased

    def owns(self, leased: LeasedRequest) -> bool:
        """Whether a request is still leased, and under the same lease."""
        return self._leased.get(leased.request_id) is leased

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """Append tokens of steps to the journals; returns sequences that lost their lease.

        The tokens of a sequence whose request came back under another lease are dropped.
        """
        at_ms = now_ms()
        appending = []
        # The tokens of a sequence are one entry: several in a call could not be retried.
        by_sequence: defaultdict[int, list[TokenOutput]] = defaultdict(list)
        for output in outputs:
            by_sequence[output.sequence_id].append(output)
        for sequence_id, own in by_sequence.items():
            leased = self._leased.get(own[0].request_id)
            if leased is not None and leased.sequence_id == sequence_id:
                tokens, end = journal_entries(leased.job, own, at_ms)
                appending.append((leased, Append(leased.lease, own[0].index, tokens, end)))
        answers = await retry_until_available(
            self._queue.append, [append for _, append in appending]
        )
        refused = set()
        for (leased, append), answer in zip(appending, answers, strict=True):
            if not self.owns(leased):  # it left while this was under way
                continue
            if answer != "ok":  # after "behind" its lease expires, and the next owner resumes
                log.info("request=%s dropped: %s", leased.request_id, answer)
                assert leased.sequence_id is not None
                refused.add(leased.sequence_id)
            if answer != "ok" or append.end is not None:
                self.discard(leased.request_id)
        return refused

    async def fail(self, leased: LeasedRequest, num_tokens: int, error: Glm4vError) -> None:
        """End a request that has `num_tokens` tokens with an error."""
        log.warning("request=%s failed: %s", leased.request_id, error)
        append = Append(leased.lease, num_tokens, None, failed_end(error, num_tokens, now_ms()))
        await retry_until_available(self._queue.append, [append])
        self.discard(leased.request_id)

    async def renew(self) -> list[LeasedRequest]:
        """Renew all leases; returns the requests that were lost."""
        leased = list(self._leased.values())
        answers = await retry_until_available(self._queue.renew, [one.lease for one in leased])
        lost = []
        for one, answer in zip(leased, answers, strict=True):
            if answer != "ok" and self.owns(one):  # otherwise it left while this was under way
                log.info("request=%s dropped: %s", one.request_id, answer)
                self.discard(one.request_id)
                lost.append(one)
        return lost
