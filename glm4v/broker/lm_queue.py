"""What a language worker asks of Redis: claim requests, append tokens, give leases back.

A lease is the pending entry of a consumer group. Every call checks that it is still ours.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glm4v.broker.connection import BLOCK_S, Connection, WrongType, translated
from glm4v.broker.entries import Fields, RawEntry, Unreadable, read_entry, scripts_index
from glm4v.broker.job_stream import JobStream, raw
from glm4v.broker.keys import LM_GROUP, MAX_DEAD, Keys
from glm4v.errors import RequestFailed
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one request's journal."""

    request_id: str
    entry: str  # of the job stream
    lives: int  # times a worker was lost with the request before
    claims: int = 0  # times this entry was claimed before: with the entry, the fencing token


@dataclass(frozen=True, slots=True)
class ResumeState:
    """A claimed request as its journal tells it: what was asked and the tokens there are."""

    job: pb.Job
    token_ids: tuple[int, ...]
    trials: int  # times a worker died with it while it had steps of its own


@dataclass(frozen=True, slots=True)
class Append:
    """What one step adds to one request."""

    lease: Lease
    first: int  # index of the first token
    tokens: pb.JournalTokens | None
    end: pb.JournalEnd | None = None


class LmQueue:
    """The language workers' side of the protocol, for one worker life."""

    def __init__(
        self, connection: Connection, keys: Keys, *, lease_s: float, result_ttl_s: float
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._retention_ms = int(result_ttl_s * 1000)
        self._jobs = JobStream(
            connection, keys.jobs_lm, LM_GROUP, lease_s, dead=keys.dead, read=_lease
        )
        self.consumer = self._jobs.consumer

    async def ready(self) -> None:
        """Make sure the queue exists."""
        await self._jobs.ready()

    async def claim(self, room: int, wait_s: float = BLOCK_S) -> list[Lease]:
        """New requests, at most `room`; waits for up to `wait_s` when there are none."""
        return await self._jobs.claim(room, wait_s)

    async def claim_expired(self, room: int) -> list[Lease]:
        """Requests whose lease has lapsed, at most `room`."""
        return await self._jobs.claim_expired(room)

    async def resume(self, lease: Lease) -> ResumeState | None:
        """Read the journal of a claimed request; None when it is over (its lease is given back).

        One that cannot be read is ended with that.
        """
        key = self._keys.journal(lease.request_id)
        async with translated():
            entries = await self._connection.commands.xrange(key)
        try:
            resumed = _resumed(lease.request_id, entries)
        except _Damaged as damage:
            await self._give_up(lease, damage)
            return None
        if resumed is None:
            await self.renew([lease])  # settles the entry, as the request is over
        return resumed

    async def _give_up(self, lease: Lease, damage: "_Damaged") -> None:
        """End a request whose journal cannot be read, and keep what was found there."""
        log.error("request=%s is given up: %s", lease.request_id, damage)
        await self._keep_dead(
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
            message=f"given up: {damage}",
            token_count=damage.next_index,
            at_ms=int(time.time() * 1000),
        )
        await self.append([Append(lease, damage.next_index, None, end)])

    async def append(self, steps: Sequence[Append]) -> list[str]:
        """Append a step's tokens; answers for each "ok", "closed", "lost", "behind" or "ahead".

        "behind": the journal has fewer tokens than were acknowledged, as Redis lost writes; resume
        from it. "ahead": it has more, written by none of ours; resume from it too. A repeated
        append whose first try went through unnoticed answers "ok". Raises Unavailable.
        """
        if not steps:
            return []
        keys = [self._keys.jobs_lm, self._keys.open, self._keys.readers]
        args: list[Any] = [LM_GROUP, self.consumer, self._retention_ms]
        for step in steps:
            count = len(step.tokens.ids) if step.tokens else 0
            keys.append(self._keys.journal(step.lease.request_id))
            args += [
                step.lease.request_id,
                step.lease.entry,
                step.lease.claims,
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
        self, leases: Sequence[Lease], stage: pb.JournalStage | None = None
    ) -> list[str]:
        """Renew leases, writing `stage` into the journals; "ok", "closed" or "lost" for each."""
        if not leases:
            return []
        answers = await self._connection.run(
            "renew",
            [self._keys.jobs_lm, *(self._keys.journal(lease.request_id) for lease in leases)],
            [
                LM_GROUP,
                self.consumer,
                stage.SerializeToString() if stage else b"",
                *(word for lease in leases for word in (lease.entry, lease.claims)),
            ],
        )
        return [answer.decode() for answer in answers]

    async def requeue(self, leases: Sequence[Lease]) -> int:
        """Put requests back at the end of the queue for any worker; how many were still ours."""
        if not leases:
            return 0
        stage = pb.JournalStage(stage=inference_pb2.STAGE_QUEUED, at_ms=int(time.time() * 1000))
        keys = [self._keys.jobs_lm]
        args: list[Any] = [LM_GROUP, self.consumer, stage.SerializeToString()]
        for lease in leases:
            keys.append(self._keys.journal(lease.request_id))
            args += [lease.request_id, lease.entry, lease.claims, lease.lives]
        return int(await self._connection.run("requeue", keys, args))

    async def await_encode(self, lease: Lease, job: pb.Job) -> None:
        """Send a request back to the vision stage: its embedding is gone."""
        vision_job = pb.VisionJob(image_digest=job.image_digest, fingerprint=job.fingerprint)
        await self._connection.run(
            "await_encode",
            [
                self._keys.jobs_lm,
                self._keys.jobs_vision,
                self._keys.flight(job.fingerprint, job.image_digest),
            ],
            [
                LM_GROUP,
                self.consumer,
                lease.request_id,
                lease.entry,
                lease.claims,
                vision_job.SerializeToString(),
            ],
        )

    async def bury(self, job: pb.Job, reason: str) -> None:
        """Keep a request that kills its workers for a person to look at."""
        await self._keep_dead({"r": job.request_id, "d": job.SerializeToString(), "m": reason})

    async def _keep_dead(self, fields: dict[Any, Any]) -> None:
        try:
            async with translated():
                await self._connection.commands.xadd(self._keys.dead, fields, maxlen=MAX_DEAD)
        except WrongType as error:  # the request ends all the same
            log.error("a dead letter is lost: %s", error)


def _lease(entry: str, fields: Fields, claims: int) -> Lease:
    try:
        return Lease(fields[b"r"].decode(), entry, int(fields[b"l"]) + claims, claims)
    except (KeyError, ValueError) as error:
        raise Unreadable(f"it names no request: {error!r}") from None


def _resolve_mismatch(answer: str, step: Append) -> str:
    """A gap that ends where this append would have ended is this append, gone through before."""
    if not answer.startswith("gap:"):
        return answer
    count = len(step.tokens.ids) if step.tokens else 0
    next_index = int(answer.removeprefix("gap:"))
    if count and next_index == step.first + count:
        return "ok"
    return "behind" if next_index < step.first else "ahead"


class _Damaged(Exception):
    """A journal that cannot be read from its beginning to its end."""

    def __init__(self, reason: str, entry: bytes, fields: Fields, next_index: int) -> None:
        super().__init__(reason)
        self.entry = entry
        self.fields = fields
        self.next_index = next_index  # as the scripts see it


def _resumed(request_id: str, entries: Sequence[RawEntry]) -> ResumeState | None:
    """What a journal says; None when the request is over. Raises _Damaged."""
    job: pb.Job | None = None
    tokens: list[int] = []
    trials = next_index = 0
    is_on_trial = False
    damage: tuple[str, bytes, Fields] | None = None
    for entry_id, fields in entries:
        try:
            entry = read_entry((entry_id, fields))
        except Unreadable as error:
            log.error("request=%s entry=%s is left out: %s", request_id, entry_id.decode(), error)
            damage = damage or (str(error), entry_id, fields)
            next_index = scripts_index(fields, next_index)
            continue
        event, next_index = entry.event, entry.next_index
        if isinstance(event, pb.JournalAccepted):
            job = event.job
        elif isinstance(event, pb.JournalTokens):
            tokens.extend(event.ids)
            trials = 0
        elif isinstance(event, pb.JournalStage):
            # Handed back in time: it did not kill that worker.
            trials += event.alone - (is_on_trial and event.stage == inference_pb2.STAGE_QUEUED)
            is_on_trial = event.alone
        elif isinstance(event, pb.JournalEnd):
            return None
    if entries and (job is None or len(tokens) != next_index):
        damage = damage or ("entries are missing", *entries[-1])
        reason, broken, found = damage
        raise _Damaged(f"its journal cannot be read: {reason}", broken, found, next_index)
    return ResumeState(job, tuple(tokens), trials) if job is not None else None
