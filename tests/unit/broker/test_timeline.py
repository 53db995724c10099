"""Journals as phases in time: the right values are counted by hand from the entries."""

import pytest

from glm4v.broker.entries import RawEntry
from glm4v.broker.timeline import PhaseName, Timeline, add_entries
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

QUEUED, ENCODING, RUNNING = api.STAGE_QUEUED, api.STAGE_ENCODING, api.STAGE_RUNNING
JOB = pb.Job(request_id="r", accepted_ms=1000, prompt_ids=range(9), timeout_ms=5000)
IMAGE_JOB = pb.Job(
    request_id="r", accepted_ms=1000, prompt_ids=range(9), image_digest="d", image_tokens=1602
)


def stage(at_ms: int, stage: "api.Stage.ValueType", worker: str = "") -> RawEntry:
    payload = pb.JournalStage(stage=stage, worker=worker).SerializeToString()
    return f"{at_ms}-0".encode(), {b"k": b"s", b"n": b"0", b"d": payload}


def tokens(at_ms: int, after: int) -> RawEntry:
    return f"{at_ms}-0".encode(), {b"k": b"t", b"n": str(after).encode(), b"d": b""}


def end(at_ms: int) -> RawEntry:
    payload = pb.JournalEnd(kind=pb.END_KIND_LENGTH).SerializeToString()
    return f"{at_ms}-0".encode(), {b"k": b"e", b"n": b"3", b"d": payload}


def timeline(job: pb.Job, entries: list[RawEntry]) -> Timeline:
    """Of entries that arrive one by one, as a long journal is read in parts."""
    found = Timeline(job)
    for entry in entries:
        add_entries(found, [entry])
    return found


def phases(*entries: RawEntry) -> list[tuple[str, int, int]]:
    found = timeline(JOB, list(entries)).phases
    return [(str(each.name), each.start_ms, each.end_ms) for each in found]


def test_a_request_with_an_image_has_both_queues() -> None:
    found = timeline(
        IMAGE_JOB,
        [
            stage(1000, QUEUED),
            stage(1200, ENCODING, "vision-a"),
            stage(1900, QUEUED, "vision-a"),
            stage(2000, RUNNING, "lm-a"),
            tokens(2500, 1),
            tokens(2600, 2),
            tokens(2800, 4),
            end(2801),
        ],
    )
    assert [(str(each.name), each.start_ms, each.end_ms, each.worker) for each in found.phases] == [
        ("vision queue", 1000, 1200, ""),
        ("encode", 1200, 1900, "vision-a"),
        ("language queue", 1900, 2000, ""),
        ("prefill", 2000, 2500, "lm-a"),
        ("decode", 2500, 2801, "lm-a"),
    ]
    assert (found.tokens, found.takeovers, found.input_tokens) == (4, 0, 9 - 3 + 1602)
    assert found.time_to_first_token_s == 1.5
    assert found.duration_s == 1.801
    assert found.token_gaps_s == [0.1, 0.2]
    assert found.end is not None
    assert found.end.kind == pb.END_KIND_LENGTH


def test_a_worker_that_died_leaves_a_takeover() -> None:
    assert phases(
        stage(1000, QUEUED),
        stage(1010, RUNNING),
        tokens(1100, 1),
        tokens(1200, 2),
        stage(9000, RUNNING),
        tokens(9100, 3),
        end(9101),
    ) == [
        ("language queue", 1000, 1010),
        ("prefill", 1010, 1100),
        ("decode", 1100, 1200),
        ("takeover", 1200, 9000),
        ("prefill", 9000, 9100),
        ("decode", 9100, 9101),
    ]


def test_a_worker_that_died_in_the_prefill_leaves_a_takeover() -> None:
    assert phases(stage(1000, QUEUED), stage(1010, RUNNING), stage(8000, RUNNING), end(8005)) == [
        ("language queue", 1000, 1010),
        ("prefill", 1010, 1010),
        ("takeover", 1010, 8000),
        ("prefill", 8000, 8005),
    ]


def test_a_worker_that_drains_puts_its_requests_back() -> None:
    assert phases(
        stage(1000, QUEUED), stage(1010, RUNNING), tokens(1100, 1), stage(1150, QUEUED), end(1300)
    ) == [
        ("language queue", 1000, 1010),
        ("prefill", 1010, 1100),
        ("decode", 1100, 1150),
        ("language queue", 1150, 1300),
    ]


def test_an_open_request_has_no_end() -> None:
    found = timeline(JOB, [stage(1000, QUEUED), stage(1400, RUNNING)])
    assert found.end is None
    assert found.time_to_first_token_s is None
    assert found.duration_s == pytest.approx(0.4)


def test_tokens_written_again_count_once_and_foreign_entries_not_at_all() -> None:
    found = timeline(
        JOB,
        [
            stage(1000, QUEUED),
            stage(1010, RUNNING),
            tokens(1100, 2),
            tokens(1150, 2),
            (b"1160-0", {b"x": b"y"}),
            (b"1170-0", {b"k": b"t", b"n": b"many", b"d": b""}),
            end(1200),
        ],
    )
    assert found.tokens == 2
    assert [each.name for each in found.phases][-1] is PhaseName.DECODE


def test_an_end_of_a_newer_release_has_a_name() -> None:
    payload = pb.JournalEnd(kind=99).SerializeToString()  # type: ignore[arg-type]
    found = timeline(JOB, [(b"1200-0", {b"k": b"e", b"n": b"0", b"d": payload})])
    assert found.end_reason == "unknown"
