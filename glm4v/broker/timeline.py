"""What happened to a request, as phases in time, read from its journal.

    vision queue, encode, language queue, prefill, decode, [takeover, prefill, decode ...]

A phase ends when the next begins. A worker that died leaves a takeover: the time from its last
token until another worker runs the request.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.entries import RawEntry, Unreadable, entry_order, read_entry
from glm4v.broker.journal_reader import job_of, unknown_request
from glm4v.broker.keys import Keys
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

_BATCH = 250  # a gateway's streams wait a few milliseconds for one
_PLACEHOLDERS = 3  # of an image in the prompt


class PhaseName(StrEnum):
    """What a request waits for or undergoes."""

    VISION_QUEUE = "vision queue"
    ENCODE = "encode"
    LANGUAGE_QUEUE = "language queue"
    PREFILL = "prefill"
    DECODE = "decode"
    TAKEOVER = "takeover"


_OF_STAGE = {
    api.STAGE_QUEUED: PhaseName.LANGUAGE_QUEUE,
    api.STAGE_ENCODING: PhaseName.ENCODE,
    api.STAGE_RUNNING: PhaseName.PREFILL,
}


@dataclass(slots=True)
class Phase:
    """A part of a request's life. Times are Unix milliseconds by the clock of Redis.

    Attributes:
        worker: Consumer name of the worker; empty in queues.
        tokens: Tokens that were appended in it.
        isolated: Whether the next token was computed in a batch of its own.
    """

    name: PhaseName
    start_ms: int
    end_ms: int
    worker: str = ""
    tokens: int = 0
    isolated: bool = False

    @property
    def seconds(self) -> float:
        """How long it took; never negative, though the clock of Redis may be set back."""
        return max(self.end_ms - self.start_ms, 0) / 1000


@dataclass(slots=True)
class Timeline:
    """The life of one answer of a request.

    Attributes:
        end: How it ended; None for an open request.
        end_ms: Time of its end, or of its last entry.
        token_ms: Time of each entry with tokens.
        next_index: Index of the token after those that were added.
    """

    job: pb.Job
    phases: list[Phase] = field(default_factory=list)
    end: pb.JournalEnd | None = None
    end_ms: int = 0
    token_ms: list[int] = field(default_factory=list)
    next_index: int = 0

    @property
    def end_reason(self) -> str:
        """How it ended: "stop_token", "length" ..., or the status of a failure; empty if open."""
        if self.end is None:
            return ""
        if self.end.kind == pb.END_KIND_FAILED and self.end.code:
            return self.end.code.lower()
        names = pb.EndKind.DESCRIPTOR.values_by_number
        if self.end.kind not in names:  # of a newer release
            return "unknown"
        return names[self.end.kind].name.removeprefix("END_KIND_").lower()

    @property
    def tokens(self) -> int:
        """Number of tokens in the answer."""
        return sum(phase.tokens for phase in self.phases)

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt, with those of the image in place of its placeholders."""
        has_image = bool(self.job.image_digest)
        return len(self.job.prompt_ids) + has_image * (self.job.image_tokens - _PLACEHOLDERS)

    @property
    def takeovers(self) -> int:
        """How often a language worker went on for one that died."""
        return sum(phase.name is PhaseName.TAKEOVER for phase in self.phases)

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds from acceptance to the first token; None without a token."""
        if not self.token_ms:
            return None
        return max(self.token_ms[0] - self.job.accepted_ms, 0) / 1000

    @property
    def duration_s(self) -> float:
        """Seconds from acceptance to the end."""
        return max(self.end_ms - self.job.accepted_ms, 0) / 1000

    @property
    def token_gaps_s(self) -> list[float]:
        """Seconds between entries with tokens that follow each other."""
        times = self.token_ms
        return [max(b - a, 0) / 1000 for a, b in pairwise(times)]

    def as_dict(self) -> dict[str, object]:
        """It as JSON; times are seconds after acceptance."""
        start_ms = self.job.accepted_ms
        return {
            "request_id": self.job.request_id,
            "accepted_ms": start_ms,
            "end": self.end_reason or "open",
            "message": self.end.message if self.end is not None else "",
            "input_tokens": self.input_tokens,
            "tokens": self.tokens,
            "takeovers": self.takeovers,
            "time_to_first_token_s": self.time_to_first_token_s,
            "total_s": self.duration_s,
            "phases": [
                {
                    "name": str(each.name),
                    "start_s": (each.start_ms - start_ms) / 1000,
                    "seconds": each.seconds,
                    "worker": each.worker,
                    "tokens": each.tokens,
                    "isolated": each.isolated,
                }
                for each in self.phases
            ],
        }

    def seconds(self, name: PhaseName) -> float:
        """Seconds in all phases of a name."""
        return sum(phase.seconds for phase in self.phases if phase.name is name)


async def read_timeline(connection: Connection, keys: Keys, request_id: str) -> Timeline:
    """The timeline of a request, or of a choice. Raises UnknownReference, RequestFailed, ..."""
    result: Timeline | None = None
    begin = "-"
    while True:
        async with map_redis_errors():
            batch = await connection.commands.xrange(keys.journal(request_id), begin, count=_BATCH)
        if batch:
            result = result or Timeline(job_of(request_id, batch))
            add_entries(result, batch)
        if len(batch) < _BATCH:
            break
        begin = f"({batch[-1][0].decode()}"
    if result is None:
        raise unknown_request(request_id)
    return result


def add_entries(result: Timeline, entries: Iterable[RawEntry]) -> None:
    """Add the next entries of a journal; unreadable ones are skipped."""
    for entry in entries:
        entry_id, fields = entry
        at_ms = entry_order(entry_id)[0]
        if fields.get(b"k") == b"t":  # not parsed: there may be thousands, and `n` says enough
            after = fields.get(b"n", b"")
            if after.isdigit() and int(after) > result.next_index:
                _add_tokens(result, at_ms, int(after) - result.next_index)
                result.next_index = int(after)
            continue
        try:
            event = read_entry(entry).event
        except Unreadable:
            continue
        if isinstance(event, pb.JournalStage):
            _add_stage(result, at_ms, event)
        elif isinstance(event, pb.JournalEnd) and result.end is None:
            result.end = event
            _close_phase(result, at_ms)
        result.end_ms = at_ms


def _add_stage(result: Timeline, at_ms: int, event: pb.JournalStage) -> None:
    name = _OF_STAGE.get(event.stage)
    if name is None:
        return
    last = result.phases[-1] if result.phases else None
    if last is not None and last.name in (PhaseName.PREFILL, PhaseName.DECODE):
        if name is PhaseName.PREFILL:  # nobody put it back into the queue: its worker died
            died_ms = max(result.token_ms[-1] if result.token_ms else 0, last.start_ms)
            _close_phase(result, died_ms)
            result.phases.append(Phase(PhaseName.TAKEOVER, died_ms, at_ms))
    elif name is PhaseName.ENCODE and last is not None and last.name is PhaseName.LANGUAGE_QUEUE:
        last.name = PhaseName.VISION_QUEUE
    _close_phase(result, at_ms)
    worker = "" if name is PhaseName.LANGUAGE_QUEUE else event.worker
    result.phases.append(Phase(name, at_ms, at_ms, worker, isolated=event.isolated))


def _add_tokens(result: Timeline, at_ms: int, count: int) -> None:
    result.token_ms.append(at_ms)
    result.end_ms = at_ms
    last = result.phases[-1] if result.phases else None
    if last is None:
        return
    last.tokens += count
    if last.name is PhaseName.PREFILL:
        _close_phase(result, at_ms)
        result.phases.append(Phase(PhaseName.DECODE, at_ms, at_ms, last.worker))
    else:
        last.end_ms = at_ms


def _close_phase(result: Timeline, at_ms: int) -> None:
    if result.phases and result.phases[-1].name is not PhaseName.TAKEOVER:
        result.phases[-1].end_ms = at_ms
