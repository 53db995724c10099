"""What a journal says, and whether it is as every journal must be."""

from dataclasses import dataclass, field

from glm4v.broker import Connection, Keys
from glm4v.broker.entries import read_entry
from glm4v.internal.v1 import journal_pb2 as pb


@dataclass
class Journal:
    """One request's journal, counted."""

    token_ids: list[int] = field(default_factory=list)
    ends: list[pb.JournalEnd] = field(default_factory=list)
    duplicated: int = 0
    missing: int = 0
    is_behind_end: bool = False  # something was written after the end
    isolated_runs: list[int] = field(default_factory=list)  # tokens at each reclaim
    last_at_ms: int = 0

    def take(self, next_index: int, event: object) -> None:
        """Add an entry."""
        self.is_behind_end |= bool(self.ends)
        if isinstance(event, pb.JournalTokens):
            first = next_index - len(event.ids)
            self.duplicated += max(0, len(self.token_ids) - first)
            self.missing += max(0, first - len(self.token_ids))
            self.token_ids += event.ids
            self.last_at_ms = event.at_ms
        elif isinstance(event, pb.JournalEnd):
            self.ends.append(event)
        elif isinstance(event, pb.JournalStage) and event.isolated:
            self.isolated_runs.append(next_index)


async def read_journal(connection: Connection, keys: Keys, request_id: str) -> Journal | None:
    """The journal of a request; None when there is none."""
    entries = await connection.commands.xrange(keys.journal(request_id))
    if not entries:
        return None
    journal = Journal()
    for each in entries:
        entry = read_entry(each)
        journal.take(entry.next_index, entry.event)
    return journal
