"""The language workers' side of the protocol: claim requests, append tokens, give leases up."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glm4v.broker import keys as key_names
from glm4v.broker.connection import Connection, QueueLost, WrongType, map_redis_errors
from glm4v.broker.entries import Fields, Unreadable
from glm4v.broker.job_stream import Claimed, JobStream, Lease, raw
from glm4v.broker.keys import MAX_DEAD_LETTERS, Keys
from glm4v.broker.resume import DamagedJournal, ResumeState, resume_state
from glm4v.errors import RequestFailed
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)

MAX_WAITING_CLIENTS = 64  # that a worker looks at


@dataclass(frozen=True, slots=True)
class RequestLease(Lease):
    """The right to write one request's journal."""

    request_id: str
    earlier_attempts: int = 0  # under earlier entries: a requeued request gets a new entry

    @property
    def prior_attempts(self) -> int:
        """Workers that claimed the request before and did not finish it."""
        return self.earlier_attempts + self.delivery_count - 1


@dataclass(frozen=True, slots=True)
class Append:
    """What one request gets: the tokens of one step or several, or its end."""

    lease: RequestLease
    first: int  # index of the first token
    tokens: pb.JournalTokens | None
    end: pb.JournalEnd | None = None


class LmQueue(JobStream[RequestLease]):
    """The queue of one model's requests, for one worker process."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        fingerprint: str,
        *,
        lease_s: float,
        result_ttl_s: float,
    ) -> None:
        super().__init__(connection, keys, key_names.lm_queue(fingerprint), lease_s, read=_lease)
        self._fingerprint = fingerprint
        self._result_ttl_ms = int(result_ttl_s * 1000)

    async def _claim_new(self, capacity: int, wait_s: float) -> list[Claimed]:
        return await self._claim_fairly(capacity) or await super()._claim_new(capacity, wait_s)

    async def waiting_clients(self) -> list[str]:
        """Clients whose requests wait until a worker has capacity."""
        async with map_redis_errors():
            clients = await self._connection.commands.zrange(
                self._keys.waiting(self._fingerprint), 0, MAX_WAITING_CLIENTS - 1
            )
        return [client.decode(errors="replace") for client in clients]

    async def claim_of(self, clients: Sequence[str]) -> list[RequestLease]:
        """Claim one waiting request of each of these clients."""
        try:
            return await self._leases(await self._claim_fairly(len(clients), clients))
        except QueueLost as error:
            await self._create_again(error)
            return []

    async def _claim_fairly(self, capacity: int, clients: Sequence[str] = ()) -> list[Claimed]:
        answer = await self._connection.run(
            "claim",
            [self.name, self._keys.open_requests],
            [self.group, self.consumer, capacity, *clients],
        )
        return [
            (entry, dict(zip(fields[::2], fields[1::2], strict=True)), 1)
            for _, entries in answer or ()
            for entry, fields in entries
        ]

    async def resume_or_release(self, lease: RequestLease) -> ResumeState | None:
        """Read the journal of a claimed request.

        None when the request has ended, or ends now because its journal is damaged; the lease is
        released then.
        """
        key = self._keys.journal(lease.request_id)
        async with map_redis_errors():
            entries = await self._connection.commands.xrange(key)
        try:
            state = resume_state(lease.request_id, entries)
        except DamagedJournal as damage:
            await self._abort(lease, damage)
            return None
        if state is None:
            await self.renew([lease])  # deletes the entry, because the request has ended
        return state

    async def _abort(self, lease: RequestLease, damage: DamagedJournal) -> None:
        """End a request whose journal is damaged, and keep the damaged entry as a dead letter."""
        log.error("request=%s aborted: %s", lease.request_id, damage)
        await self._add_dead_letter(
            {
                "s": self._keys.journal(lease.request_id),
                "e": damage.entry,
                "x": raw(damage.fields),
                "m": str(damage),
            }
        )
        end = pb.JournalEnd(
            kind=pb.END_KIND_FAILED,
            code=RequestFailed.code,
            message=f"request aborted: {damage}",
            token_count=damage.next_index,
            at_ms=int(time.time() * 1000),
        )
        await self.append([Append(lease, damage.next_index, None, end)])

    async def append(self, steps: Sequence[Append]) -> list[str]:
        """Append new tokens; returns "ok", "closed", "lost", "behind" or "ahead" for each.

        "closed": the request has ended. "lost": the lease is another worker's. "behind": the
        journal has fewer tokens than were acknowledged, because Redis lost writes; "ahead": it has
        more, which none of our workers wrote. Resume from the journal after both. A retry whose
        first try was applied returns "ok". Raises Unavailable.
        """
        if not steps:
            return []
        keys = [self.name, self._keys.open_requests, self._keys.reader_deadlines]
        args: list[Any] = [self.group, self.consumer, self._result_ttl_ms]
        for step in steps:
            count = len(step.tokens.ids) if step.tokens else 0
            keys.append(self._keys.journal(step.lease.request_id))
            args += [
                step.lease.request_id,
                step.lease.entry,
                step.lease.delivery_count,
                step.first,
                step.first + count,
                step.tokens.SerializeToString() if step.tokens else b"",
                step.end.SerializeToString() if step.end else b"",
            ]
        answers = await self._connection.run("append", keys, args)
        return [
            _resolve_mismatch(answer.decode(), step)
            for answer, step in zip(answers, steps, strict=True)
        ]

    async def renew(
        self, leases: Sequence[RequestLease], stage: pb.JournalStage | None = None
    ) -> list[str]:
        """Renew leases and write `stage` into the journals.

        Returns "ok", "closed" (the request has ended) or "lost" for each.
        """
        await self.report()
        if not leases:
            return []
        answers = await self._connection.run(
            "renew",
            [self.name, *(self._keys.journal(lease.request_id) for lease in leases)],
            [
                self.group,
                self.consumer,
                stage.SerializeToString() if stage else b"",
                *(word for lease in leases for word in (lease.entry, lease.delivery_count)),
            ],
        )
        return [answer.decode() for answer in answers]

    async def requeue(self, leases: Sequence[RequestLease]) -> int:
        """Put requests back, before others of their clients; returns how many leases were held."""
        if not leases:
            return 0
        stage = pb.JournalStage(
            stage=inference_pb2.STAGE_QUEUED, at_ms=int(time.time() * 1000), worker=self.consumer
        )
        keys = [self.name, self._keys.open_requests]
        args: list[Any] = [self.group, self.consumer, stage.SerializeToString()]
        for lease in leases:
            keys.append(self._keys.journal(lease.request_id))
            args += [lease.request_id, lease.entry, lease.delivery_count, lease.prior_attempts]
        return int(await self._connection.run("requeue", keys, args))

    async def await_encode(self, lease: RequestLease, job: pb.Job) -> None:
        """Let a request wait for its image to be encoded again, because its embedding is gone."""
        vision_job = pb.VisionJob(image_digest=job.image_digest, fingerprint=job.fingerprint)
        await self._connection.run(
            "await_encode",
            [
                self.name,
                self._keys.jobs_vision(self._fingerprint),
                self._keys.encode_waiters(self._fingerprint, job.image_digest),
            ],
            [
                self.group,
                self.consumer,
                lease.request_id,
                lease.entry,
                lease.delivery_count,
                vision_job.SerializeToString(),
            ],
        )

    async def dead_letter(self, job: pb.Job, reason: str) -> None:
        """Keep a request that crashes its workers as a dead letter, for a person to look at."""
        await self._add_dead_letter(
            {"r": job.request_id, "d": job.SerializeToString(), "m": reason}
        )

    async def _add_dead_letter(self, fields: dict[Any, Any]) -> None:
        try:
            async with map_redis_errors():
                await self._connection.commands.xadd(
                    self._keys.dead_letters, fields, maxlen=MAX_DEAD_LETTERS
                )
        except WrongType as error:  # the request ends all the same
            log.error("dead letter not stored: %s", error)


def _lease(entry: str, fields: Fields, delivery_count: int) -> RequestLease:
    try:
        return RequestLease(entry, delivery_count, fields[b"r"].decode(), int(fields[b"l"]))
    except (KeyError, ValueError) as error:
        raise Unreadable(f"no request is named in it: {error!r}") from None


def _resolve_mismatch(answer: str, step: Append) -> str:
    """A journal that ends where this append would have ended has it already: this is a retry."""
    if not answer.startswith("index_mismatch:"):
        return answer
    count = len(step.tokens.ids) if step.tokens else 0
    next_index = int(answer.removeprefix("index_mismatch:"))
    if count and next_index == step.first + count:
        return "ok"
    return "behind" if next_index < step.first else "ahead"
