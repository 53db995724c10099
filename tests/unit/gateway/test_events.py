"""A journal's entries as one reader sees them."""

from collections.abc import Sequence

import pytest

from gateway.streaming.events import EventBuilder, accepted
from glm4v.broker.entries import Event
from glm4v.errors import (
    Cancelled,
    DeadlinePassed,
    Glm4vError,
    InvalidRequest,
    Overloaded,
    RequestFailed,
)
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from tests.vocabularies import byte_tokenizer

START_MS = 1_000_000
NUM_IMAGE_TOKENS = 18


def job(stop: Sequence[str] = (), *, image: str = "", **fields: int) -> pb.Job:
    return pb.Job(
        request_id="r",
        prompt_ids=[258, 260, 263],
        image_digest=image,
        stop=stop,
        stop_token_ids=[256],
        accepted_ms=START_MS,
        deadline_ms=START_MS + 5000,
        orphan_timeout_ms=2500,
        **fields,  # type: ignore[arg-type]
    )


def tokens(text: str | list[int], at_ms: int = 0) -> pb.JournalTokens:
    ids = list(text.encode()) if isinstance(text, str) else text
    return pb.JournalTokens(ids=ids, at_ms=START_MS + at_ms)


def stage(stage: "api.Stage.ValueType", at_ms: int) -> pb.JournalStage:
    return pb.JournalStage(stage=stage, at_ms=START_MS + at_ms)


def end(
    kind: "pb.EndKind.ValueType" = pb.END_KIND_LENGTH, at_ms: int = 0, **fields: object
) -> pb.JournalEnd:
    return pb.JournalEnd(kind=kind, at_ms=START_MS + at_ms, **fields)  # type: ignore[arg-type]


def read(
    asked: pb.Job, entries: Sequence[Event], token_offset: int = 0
) -> list[api.GenerationEvent]:
    """What a reader sees behind `accepted`."""
    builder = EventBuilder(
        asked, byte_tokenizer(), image_tokens=NUM_IMAGE_TOKENS, token_offset=token_offset
    )
    return [event for entry in entries for event in builder.to_events(entry)]


def answer(events: Sequence[api.GenerationEvent]) -> tuple[list[int], str]:
    """Token ids and text of all events."""
    ids = [token_id for event in events for token_id in event.delta.token_ids]
    return ids, "".join(event.delta.text + event.finished.text for event in events)


def test_accepted_says_what_was_taken_in() -> None:
    asked = job(image="d")
    asked.sampling.seed, asked.max_tokens = 7, 9
    event = accepted(asked, with_prompt_ids=True)
    assert event.accepted == api.Accepted(
        request_id="r",
        prompt_tokens=3,
        prompt_ids=[258, 260, 263],
        image_digest="d",
        seed=7,
        n=1,
        max_tokens=9,
    )
    assert not accepted(asked, with_prompt_ids=False).accepted.prompt_ids


def test_an_answer_is_its_tokens_in_order_then_why_it_ended() -> None:
    ending = end(pb.END_KIND_STOP_TOKEN, stop_token_id=256)
    events = read(job(), [tokens("ab"), tokens("猫"), tokens([256]), ending])
    assert [event.delta.first_index for event in events[:3]] == [0, 2, 5]
    assert answer(events) == ([*"ab猫".encode(), 256], "ab猫")
    finished = events[-1].finished
    assert (finished.reason, finished.stop_token_id) == (api.FINISH_REASON_STOP, 256)
    assert finished.usage == api.Usage(prompt_tokens=3, image_tokens=0, completion_tokens=6)


def test_an_answer_to_which_nothing_can_be_added_stops_without_a_match() -> None:
    finished = read(job(), [tokens("{}"), end(pb.END_KIND_COMPLETE)])[-1].finished
    assert finished.reason == api.FINISH_REASON_STOP
    assert finished.WhichOneof("matched") is None


def test_the_text_of_a_stop_token_is_no_part_of_the_answer() -> None:
    asked = job()
    asked.stop_token_ids.append(ord("b"))
    events = read(asked, [tokens("ab"), end(pb.END_KIND_STOP_TOKEN, stop_token_id=ord("b"))])
    assert answer(events) == (list(b"ab"), "a")


@pytest.mark.parametrize("offset", range(7))
def test_the_newline_of_the_header_is_a_token_and_no_text(offset: int) -> None:
    asked = job(["\n"], header_id=10, want_logprobs=True)
    entries: list[Event] = [tokens("\na"), tokens("猫\n"), tokens("tail"), end()]
    for entry in entries[:-1]:
        assert isinstance(entry, pb.JournalTokens)
        for token_id in entry.ids:
            entry.logprobs.add(chosen=api.Logprob(token_id=token_id, logprob=-1.0))
    events = read(asked, entries, offset)
    ids = [*"\na猫\n".encode()]
    assert answer(events) == (ids[offset:], {0: "a猫", 1: "a猫", 5: "", 6: ""}.get(offset, "猫"))
    logprobs = [one.chosen.token_id for event in events for one in event.delta.logprobs]
    assert logprobs == ids[offset:]
    assert events[-1].finished.stop_string == "\n"
    assert events[-1].finished.usage.completion_tokens == len(ids)


def test_an_answer_without_the_headers_newline_loses_nothing() -> None:
    assert answer(read(job(header_id=10), [tokens("ab\n"), end()]))[1] == "ab\n"
    assert answer(read(job(header_id=10), [tokens("\n\nab"), end()]))[1] == "\nab"


def test_a_journal_of_an_older_gateway_keeps_its_text() -> None:
    assert answer(read(job(), [tokens("\nab"), end()]))[1] == "\nab"


def test_what_was_held_back_comes_with_the_end() -> None:
    events = read(job(["END"]), [tokens("xEN"), tokens([0xE7]), end()])
    assert events[0].delta.text == "x"
    assert events[-1].finished.text == "EN\ufffd"
    assert answer(events)[1] == "xEN\ufffd"
    assert events[-1].finished.reason == api.FINISH_REASON_LENGTH


@pytest.mark.parametrize(
    "ending",
    [
        end(pb.END_KIND_STOP_STRING, stop_string="END", token_count=5),
        end(pb.END_KIND_LENGTH, token_count=9),
        end(pb.END_KIND_STOP_TOKEN, stop_token_id=256, token_count=9),
    ],
)
def test_a_stop_string_ends_the_answer_even_when_the_worker_went_on(ending: pb.JournalEnd) -> None:
    events = read(job(["END"]), [tokens("xyE"), tokens("NDtail"), tokens("more"), ending])
    assert answer(events) == (list(b"xyEND"), "xy")
    finished = events[-1].finished
    assert (finished.reason, finished.stop_string) == (api.FINISH_REASON_STOP, "END")
    assert finished.usage.completion_tokens == 5


@pytest.mark.parametrize("offset", range(10))
def test_from_any_token_on_the_rest_of_the_answer_is_the_same(offset: int) -> None:
    text = "aE猫ENxEND…"
    entries: list[Event] = [tokens([*text.encode()[at : at + 3]]) for at in range(0, 15, 3)]
    entries.append(end())
    whole = read(job(["END"]), entries)
    ids, full_text = answer(whole)
    assert full_text == "aE猫ENx"
    known = read(job(["END"]), [tokens([token_id]) for token_id in ids[:offset]])
    rest_ids, rest = answer(read(job(["END"]), entries, offset))
    assert ids[:offset] + rest_ids == ids
    assert answer(known)[1] + rest == full_text


def test_an_offset_behind_the_end_is_refused_with_the_numbers() -> None:
    assert answer(read(job(), [tokens("abc"), end()], 3)) == ([], "")
    with pytest.raises(InvalidRequest, match=r"token_offsets\[0\] is 4, the answer has 3 tokens"):
        read(job(), [tokens("abc"), end()], 4)
    with pytest.raises(InvalidRequest, match=r"token_offsets\[0\] is 3, the answer has 2 tokens"):
        read(job(["b"]), [tokens("abc"), end()], 3)


def test_log_probabilities_stay_with_their_tokens() -> None:
    entry = tokens("abcd")
    for token_id in entry.ids:
        entry.logprobs.add(chosen=api.Logprob(token_id=token_id, logprob=-1.0))
    [delta, _] = read(job(["c"], want_logprobs=True), [entry, end()], 1)
    assert list(delta.delta.token_ids) == list(b"bc")
    assert [one.chosen.token_id for one in delta.delta.logprobs] == list(b"bc")
    assert delta.delta.first_index == 1


def test_stages_are_reported_from_the_offset_on() -> None:
    entries: list[Event] = [
        stage(api.STAGE_QUEUED, 0),
        stage(api.STAGE_RUNNING, 5),
        tokens("ab"),
        stage(api.STAGE_RUNNING, 9),
        end(),
    ]
    stages = [event.progress.stage for event in read(job(), entries) if event.HasField("progress")]
    assert stages == [api.STAGE_QUEUED, api.STAGE_RUNNING, api.STAGE_RUNNING]
    assert [event.WhichOneof("event") for event in read(job(), entries, 2)] == [
        "progress",
        "finished",
    ]


def test_times_are_the_journals_own() -> None:
    entries: list[Event] = [
        stage(api.STAGE_QUEUED, 0),
        stage(api.STAGE_ENCODING, 100),
        stage(api.STAGE_QUEUED, 1500),
        stage(api.STAGE_RUNNING, 1600),
        tokens("ab", 2000),
        tokens("cS", 2250),
        tokens("d", 9000),
        end(at_ms=3000),
    ]
    finished = read(job(["S"], image="d"), entries)[-1].finished
    assert finished.timings == api.Timings(
        vision_s=1.5, time_to_first_token_s=2, decode_s=0.25, total_s=3
    )
    assert finished.usage.image_tokens == NUM_IMAGE_TOKENS
    assert read(job(["S"], image="d"), entries, 4)[-1].finished.timings == finished.timings


def test_times_without_an_answer_or_with_clocks_apart_are_not_negative() -> None:
    finished = read(job(), [stage(api.STAGE_QUEUED, 0), end(at_ms=-50)])[-1].finished
    assert finished.timings == api.Timings()


@pytest.mark.parametrize(
    ("ending", "kind", "said"),
    [
        (end(pb.END_KIND_CANCELLED), Cancelled, "'r' was cancelled by its caller"),
        (end(pb.END_KIND_ABANDONED), Cancelled, "no client was attached for 2.5 s"),
        (end(pb.END_KIND_EXPIRED), DeadlinePassed, "'r' did not finish within 5 s"),
        (end(pb.END_KIND_FAILED, code="ABORTED", message="died"), RequestFailed, "died"),
        (end(pb.END_KIND_FAILED, code="RESOURCE_EXHAUSTED", message="9"), Overloaded, "9"),
        (end(pb.END_KIND_FAILED, code="UNKNOWN_CODE", message="odd"), RequestFailed, "odd"),
    ],
)
def test_a_request_that_did_not_finish_raises_why(
    ending: pb.JournalEnd, kind: type[Glm4vError], said: str
) -> None:
    for token_offset in (0, 99):
        with pytest.raises(kind, match=said):
            read(job(["b"]), [tokens("ab"), ending], token_offset)
