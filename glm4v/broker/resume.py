"""What a language worker needs of a journal to continue a request."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from glm4v.broker.entries import Fields, RawEntry, Unreadable, indexed_by_scripts, read_entry
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResumeState:
    """A claimed request: the job and the tokens generated so far."""

    job: pb.Job
    token_ids: tuple[int, ...]
    isolated_failures: int  # workers that died while it ran isolated, since its last token


class DamagedJournal(Exception):
    """A journal that cannot be read from its first entry to its last."""

    def __init__(self, reason: str, entry: bytes, fields: Fields, next_index: int) -> None:
        super().__init__(f"its journal cannot be read: {reason}")
        self.entry = entry
        self.fields = fields
        self.next_index = next_index  # as the scripts see it


def resume_state(request_id: str, entries: Sequence[RawEntry]) -> ResumeState | None:
    """What a journal says; None when the request has ended. Raises DamagedJournal."""
    job: pb.Job | None = None
    tokens: list[int] = []
    isolated_failures = next_index = 0
    is_isolated = False
    damage: tuple[str, bytes, Fields] | None = None
    for entry_id, fields in entries:
        try:
            entry = read_entry((entry_id, fields))
        except Unreadable as error:
            log.error("request=%s entry=%s skipped: %s", request_id, entry_id.decode(), error)
            damage = damage or (str(error), entry_id, fields)
            next_index = indexed_by_scripts(fields, next_index)
            continue
        event, next_index = entry.event, entry.next_index
        if isinstance(event, pb.JournalAccepted):
            job = event.job
        elif isinstance(event, pb.JournalTokens):
            tokens.extend(event.ids)
            isolated_failures = 0
        elif isinstance(event, pb.JournalStage):
            # A worker that requeued the request survived it.
            is_requeued = is_isolated and event.stage == inference_pb2.STAGE_QUEUED
            isolated_failures += 1 if event.isolated else -1 if is_requeued else 0
            is_isolated = event.isolated
        elif isinstance(event, pb.JournalEnd):
            return None
    if entries and (job is None or len(tokens) != next_index):
        reason, broken, found = damage or ("entries are missing", *entries[-1])
        raise DamagedJournal(reason, broken, found, next_index)
    return ResumeState(job, tuple(tokens), isolated_failures) if job is not None else None
