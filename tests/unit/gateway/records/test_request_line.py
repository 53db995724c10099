"""The line in the log about a request that has ended."""

import logging

import logfmtkv
import pytest

from gateway.records.request_line import log_request
from glm4v.broker.timeline import Phase, PhaseName, Timeline
from glm4v.internal.v1 import journal_pb2 as pb


def line(timeline: Timeline, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO):
        log_request(timeline)
    return caplog.messages[-1]


def test_a_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    job = pb.Job(request_id="r", fingerprint="m", client="c", accepted_ms=1000, prompt_ids=range(5))
    phases = [
        Phase(PhaseName.LANGUAGE_QUEUE, 1000, 1100),
        Phase(PhaseName.PREFILL, 1100, 1500, "lm-a", 1),
        Phase(PhaseName.DECODE, 1500, 3000, "lm-a", 2),
    ]
    end = pb.JournalEnd(kind=pb.END_KIND_STOP_TOKEN)
    assert line(Timeline(job, phases, end, 3000, [1500, 3000]), caplog) == (
        "request=r end=stop_token model=m client=c input_tokens=5 tokens=3 total_s=2.000 "
        "time_to_first_token_s=0.500 language_queue_s=0.100 prefill_s=0.400 decode_s=1.500"
    )


def test_a_failure_says_why_on_the_same_line(caplog: pytest.LogCaptureFixture) -> None:
    end = pb.JournalEnd(kind=pb.END_KIND_FAILED, code="ABORTED", message='said "no"\ntwice')
    found = line(Timeline(pb.Job(request_id="r", accepted_ms=1), [], end, 5), caplog)
    assert "end=aborted" in found
    assert found.endswith(r'message="said \"no\"\ntwice"')


@pytest.mark.parametrize(
    "message",
    [
        "word",
        "two words",
        'said "no"\ntwice',
        "takeovers=9 end=length",
        "back\\slash \\n",
        "ends with \\",
        "tab\tand \x1b[31m red",
        '请求 "取消"',
        '"',
    ],
)
def test_a_parser_of_others_reads_every_pair(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    end = pb.JournalEnd(kind=pb.END_KIND_FAILED, code="ABORTED", message=message)
    phases = [Phase(PhaseName.TAKEOVER, 1, 2)]
    job = pb.Job(request_id="r", accepted_ms=1, client="a b", fingerprint="m")
    pairs = logfmtkv.parse(line(Timeline(job, phases, end, 5), caplog))
    assert list(pairs)[:4] == ["request", "end", "model", "client"]
    assert pairs["message"] == message
    assert pairs["client"] == "a b"
    assert pairs["takeovers"] == "1"
