"""The checker finds each kind of broken promise."""

from collections.abc import Callable

import pytest

from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from tests.chaos.checker import Verdict, judge
from tests.e2e.journals import Journal
from tests.e2e.reading import Reading

EXPECTED = [5, 6, 7]


def a_journal(*entries: tuple[int, pb.JournalTokens | pb.JournalEnd]) -> Journal:
    journal = Journal()
    for next_index, event in entries:
        journal.take(next_index, event)
    return journal


def a_reading(*deltas: tuple[int, int], end: str = "finished") -> Reading:
    reading = Reading(api.GenerateRequest(), is_accepted=True)
    for first, token in deltas:
        reading.take(api.GenerationEvent(delta=api.Delta(first_index=first, token_ids=[token])))
    if end == "finished":
        reading.take(api.GenerationEvent(finished=api.Finished()))
    elif end:
        reading.terminal.append(end)
    return reading


def tokens(*ids: int) -> pb.JournalTokens:
    return pb.JournalTokens(ids=ids)


END = (3, pb.JournalEnd(kind=pb.END_KIND_LENGTH))
GOOD_JOURNAL = ((2, tokens(5, 6)), (3, tokens(7)), END)
GOOD_READING = ((0, 5), (1, 6), (2, 7))


def verdict_of(reading: Reading, journal: Journal | None) -> Verdict:
    verdict = Verdict(faults=1)
    judge(verdict, reading, journal, EXPECTED)
    return verdict


def test_a_request_that_was_answered_keeps_the_promises() -> None:
    verdict = verdict_of(a_reading(*GOOD_READING), a_journal(*GOOD_JOURNAL))
    assert verdict.holds
    assert (verdict.accepted, verdict.finished) == (1, 1)


def test_a_cancelled_request_may_be_short() -> None:
    reading = a_reading((0, 5), end="CANCELLED")
    verdict = verdict_of(reading, a_journal((1, tokens(5)), END))
    assert (verdict.cancelled, verdict.missing, verdict.different) == (1, 0, 0)


@pytest.mark.parametrize(
    ("broken", "reading", "journal"),
    [
        ("lost", lambda: a_reading(*GOOD_READING), lambda: None),
        ("lost", lambda: a_reading(*GOOD_READING), lambda: a_journal(*GOOD_JOURNAL[:2])),
        ("lost", lambda: a_reading(*GOOD_READING, end=""), lambda: a_journal(*GOOD_JOURNAL)),
        ("failed", lambda: a_reading(end="ABORTED"), lambda: a_journal(END)),
        (
            "duplicated",
            lambda: a_reading(*GOOD_READING, (2, 7)),
            lambda: a_journal(*GOOD_JOURNAL),
        ),
        (
            "duplicated",
            lambda: a_reading(*GOOD_READING),
            lambda: a_journal(*GOOD_JOURNAL[:2], (3, tokens(7)), END),
        ),
        ("duplicated", lambda: a_reading(*GOOD_READING), lambda: a_journal(*GOOD_JOURNAL, END)),
        ("missing", lambda: a_reading((0, 5), (2, 7)), lambda: a_journal(*GOOD_JOURNAL)),
        ("missing", lambda: a_reading((0, 5), (1, 6)), lambda: a_journal(*GOOD_JOURNAL)),
        (
            "missing",
            lambda: a_reading(*GOOD_READING),
            lambda: a_journal((1, tokens(5)), (3, tokens(7)), END),
        ),
        ("different", lambda: a_reading((0, 5), (1, 9), (2, 7)), lambda: a_journal(*GOOD_JOURNAL)),
    ],
)
def test_a_broken_promise_is_found(
    broken: str, reading: Callable[[], Reading], journal: Callable[[], Journal | None]
) -> None:
    verdict = verdict_of(reading(), journal())
    assert getattr(verdict, broken) > 0
    assert not verdict.holds


@pytest.mark.parametrize(("end", "lost"), [("NOT_FOUND", 0), ("", 1)])
def test_after_an_erasure_the_client_must_be_told_an_end(end: str, lost: int) -> None:
    verdict = Verdict(faults=1, erasures=1, finished=1)
    judge(verdict, a_reading((0, 5), end=end), None, EXPECTED)
    assert (verdict.erased, verdict.lost) == (1 - lost, lost)
    assert verdict.holds == (not lost)


def test_without_an_erasure_a_missing_journal_is_a_loss() -> None:
    assert verdict_of(a_reading((0, 5), end="NOT_FOUND"), None).lost == 1
