"""Journal entries. An unreadable entry is reported, and never ends a process."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.internal.v1 import journal_pb2 as pb

# Format of journals and queue entries: the field v of the first entry, 1 if it is missing.
# Raise it when an older release would misread what this release writes.
FORMAT = 1

Event = pb.JournalAccepted | pb.JournalStage | pb.JournalTokens | pb.JournalEnd
Fields = Mapping[bytes, bytes]
RawEntry = tuple[bytes, dict[bytes, bytes]]  # id and fields
_KINDS: dict[bytes, type[Event]] = {
    b"a": pb.JournalAccepted,
    b"s": pb.JournalStage,
    b"t": pb.JournalTokens,
    b"e": pb.JournalEnd,
}


class Unreadable(Exception):
    """An entry that is foreign, damaged or written by a newer release; the message says which."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a journal."""

    event: Event
    next_index: int  # of the token after it

    @property
    def tokens_before(self) -> int:
        """Number of tokens before it; for an end at a stop string, of those that count."""
        match self.event:
            case pb.JournalTokens():
                return self.next_index - len(self.event.ids)
            case pb.JournalEnd(kind=pb.END_KIND_STOP_STRING):
                return self.event.token_count
        return self.next_index


def read_entry(entry: RawEntry) -> Entry:
    """Parse an entry; its time becomes that at which Redis took it. Raises Unreadable."""
    entry_id, fields = entry
    check_format(fields)
    kind = _KINDS.get(fields.get(b"k", b""))
    if kind is None:
        raise Unreadable(f"unknown kind {fields.get(b'k')!r}")
    try:
        event = kind.FromString(fields[b"d"])
    except (DecodeError, KeyError) as error:
        raise Unreadable(f"kind {fields[b'k']!r} does not parse: {error!r}") from None
    index = fields.get(b"n", b"")
    if not index.isdigit():
        raise Unreadable(f"its index is {index[:20]!r}")
    _set_time(event, entry_order(entry_id)[0])
    return Entry(event, int(index))


def _set_time(event: Event, at_ms: int) -> None:
    if not isinstance(event, pb.JournalAccepted):
        event.at_ms = at_ms
    elif event.job.timeout_ms:
        event.job.accepted_ms, event.job.deadline_ms = at_ms, at_ms + event.job.timeout_ms


def entry_order(entry_id: bytes) -> tuple[int, int]:
    """Sort key of an entry in its stream: Unix milliseconds, then a counter."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def indexed_by_scripts(fields: Fields, before: int) -> int:
    """Index of the next token after an unreadable entry, as the Lua scripts see it."""
    is_seen = fields.get(b"k") in _KINDS and b"d" in fields and fields.get(b"n", b"").isdigit()
    return int(fields[b"n"]) if is_seen else before


def check_format(fields: Fields) -> None:
    """Raise Unreadable if a first entry has a format that this release does not know."""
    version = fields.get(b"v", b"1")
    if not version.isdigit() or int(version) > FORMAT:
        raise Unreadable(f"its format is {version[:20]!r}, this release reads up to {FORMAT}")
