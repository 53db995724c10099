"""What measurements come to, by hand."""

import csv
from pathlib import Path

import pytest

from bench.serve.formats import FORMATS, Frame, payload
from bench.serve.goodput import parse_targets
from bench.serve.measurement import Measurement
from bench.serve.report import append_row, draw, print_report
from bench.serve.result_file import read_results, write_results
from bench.serve.summary import Spread, spread, summarize
from glm4v.errors import InvalidRequest


def measured(planned: float, first: float, *gaps: float, **fields: object) -> Measurement:
    """A request sent when it arrived, whose answer ended with its last token."""
    values = {"released_s": planned, "sent_s": planned, "first_s": first, "gaps_s": list(gaps)}
    values |= {"ended_s": first + sum(gaps), "output_tokens": 1 + len(gaps), **fields}
    return Measurement(0, False, planned, **values)  # type: ignore[arg-type]


FOUND = [
    measured(0.0, 0.1, 0.01, 0.03, prompt_tokens=5),  # ends at 0.14
    measured(1.0, 1.3, 0.02, prompt_tokens=7),  # ends at 1.32
    measured(1.5, 2.0),  # one token
    measured(1.0, 9.0, error="timeout", ended_s=4.0),
]


def test_figures_are_those_of_answered_requests() -> None:
    summary = summarize(FOUND, {"ttft": 0.301, "tpot": 0.0201})
    assert summary.requests == 4
    assert summary.failures == {"timeout": 1}
    assert summary.duration_s == 4.0
    assert summary.requests_per_s == 3 / 4
    assert (summary.output_tokens, summary.prompt_tokens) == (6, 12)
    assert summary.tokens_per_s == 6 / 4
    assert summary.goodput_per_s == 2 / 4  # not the third, nor the one that failed
    assert summary.ttft.mean == pytest.approx(300)
    assert summary.ttft.p50 == pytest.approx(300)
    assert summary.tpot.p50 == pytest.approx(20)
    assert summary.itl.mean == pytest.approx(20)
    assert summary.e2el.mean == pytest.approx((140 + 320 + 500) / 3)


def test_percentiles_lie_linearly_between_two_values() -> None:
    found = spread([0.001, 0.002, 0.003, 0.004, 0.005])
    assert (found.mean, found.p50) == (3.0, 3.0)
    assert found.p90 == pytest.approx(4.6)
    assert found.p99 == pytest.approx(4.96)


def test_latency_counts_from_the_plan_and_lateness_is_told() -> None:
    [late] = [measured(1.0, 3.0, released_s=1.5, sent_s=2.5)]
    summary = summarize([late], {})
    assert summary.ttft.mean == pytest.approx(2000)
    assert summary.late.mean == pytest.approx(500)
    assert summary.waited.mean == pytest.approx(1000)


def test_nothing_measured_is_none_and_never_nan() -> None:
    summary = summarize([], {"ttft": 1.0})
    assert summary.ttft == Spread(None, None, None, None)
    assert (summary.requests_per_s, summary.goodput_per_s) == (0.0, 0.0)


def test_targets_are_milliseconds_by_metric() -> None:
    assert parse_targets(["ttft:2000", "e2el:5e3"]) == {"ttft": 2.0, "e2el": 5.0}


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:0", "ttft:nan", "itl:5", ":5"])
def test_another_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="METRIC:MILLISECONDS"):
        parse_targets([text])


def test_results_are_read_as_they_were_written_and_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "before" / "1.jsonl"
    write_results(path, {"door": "grpc"}, FOUND)
    about, found = read_results(path)
    assert about["door"] == "grpc"
    assert found == FOUND
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidRequest, match="no whole result file"):
        read_results(path)


def test_a_row_is_appended_and_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    summary = summarize(FOUND, {})
    for _ in range(2):
        append_row(path, summary, {"door": "grpc"})
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == second
    assert (first["ttft_p50_ms"], first["failures"], first["goodput_per_s"]) == ("300.0", "1", "")
    with pytest.raises(InvalidRequest, match="other columns"):
        append_row(path, summary, {"gate": "grpc"})


def test_reports_are_made_of_failures_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = FOUND[3:]
    print_report(summarize(failed, {}), "gRPC")
    assert "failed with timeout: 1" in capsys.readouterr().out
    draw(failed, "gRPC", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("door", "line", "expected"),
    [
        ("openai", b'data: {"choices":[{"delta":{"role":"assistant"}}]}', Frame(0)),
        ("openai", b'data: {"choices":[{"delta":{"content":"a"}}]}', Frame(1)),
        (
            "openai",
            b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
            Frame(0, is_end=True),
        ),
        (
            "openai",
            b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}',
            Frame(0, 3, 4),
        ),
        ("mindie", b'data:{"token":{"id":[1,2],"text":"ab"}}', Frame(2)),
        (
            "tgi",
            b'data:{"token":{"id":1},"generated_text":"","details":{"generated_tokens":9}}',
            Frame(1, None, 9, is_end=True),
        ),
        ("triton", b'data: {"text_output":""}', Frame(0)),
        (
            "triton",
            b'data: {"text_output":"a","finish_reason":"length","num_input_tokens":3,'
            b'"num_output_tokens":[4]}',
            Frame(1, 3, 4, is_end=True),
        ),
        ("vllm", b'{"text":["Hello a"]}', Frame(1, is_end=True)),
    ],
)
def test_frames_of_each_format(door: str, line: bytes, expected: Frame) -> None:
    form = FORMATS[door]
    assert form.frame(payload(line, form.mark)) == expected


@pytest.mark.parametrize("line", [b"", b": ping", b"event: x", b"id: 3", b"data: [DONE]"])
def test_other_lines_are_no_frames(line: bytes) -> None:
    assert payload(line, b"data:") is None
