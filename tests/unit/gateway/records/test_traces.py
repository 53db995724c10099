"""Traces of several answers, and those whose collector is away or was named wrongly."""

import logging
import socket
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from gateway.records.records import open_records
from gateway.records.spans import RequestSpans
from glm4v.broker import Connection, Keys
from glm4v.broker.choices import choice_jobs
from glm4v.broker.timeline import Phase, PhaseName, Timeline
from glm4v.errors import ConfigurationError
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.telemetry.metrics import Registry
from glm4v.v1 import inference_pb2 as api

TIMELINE = Timeline(
    pb.Job(request_id="r", accepted_ms=1000),
    [Phase(PhaseName.PREFILL, 1000, 2000, "lm-a")],
    pb.JournalEnd(kind=pb.END_KIND_LENGTH),
    2000,
)


def test_a_collector_that_is_away_is_told_once_a_minute_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    spans = RequestSpans()
    for _ in range(10):
        spans.export(TIMELINE)
        time.sleep(0.2)  # the exporter tries again meanwhile, and again fails
    spans.close()
    told = [each for each in caplog.records if "trace_exporter" in each.name]
    assert len(told) == 1
    assert told[0].levelno >= logging.WARNING


async def test_an_endpoint_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
    connection = Connection("redis://127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT must be a URL"):
        open_records(connection, Keys("n"), Registry())
    await connection.close()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_answers_without_a_caller_s_trace_are_one_trace(order: tuple[int, ...]) -> None:
    """Whichever gateways record them, in whichever order; the first answer is the root."""
    spans = exported(*(answer(choice) for choice in order), gateways=3)
    assert len({span.context.trace_id for span in spans}) == 1
    assert len({span.context.span_id for span in spans}) == len(spans) == 6
    roots = [span for span in spans if span.parent is None]
    assert [span.attributes["gen_ai.response.id"] for span in roots if span.attributes] == ["r"]
    [first] = roots
    answers = [span for span in spans if span.kind is SpanKind.SERVER and span.parent]
    assert {span.attributes["gen_ai.response.id"] for span in answers if span.attributes} == {
        "r/1",
        "r/2",
    }
    assert {span.parent.span_id for span in answers if span.parent} == {first.context.span_id}


def test_several_answers_to_a_caller_with_a_trace_are_below_the_caller() -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    spans = exported(*(answer(choice, f"00-{trace}-{parent}-01") for choice in range(3)))
    answers = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [format_span_id(span.parent.span_id) for span in answers if span.parent] == [parent] * 3
    assert {format_trace_id(span.context.trace_id) for span in spans} == {trace}


def test_a_request_whose_trace_is_not_sampled_is_left_out_with_all_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    counts = {len(exported(*(answer(each, seed=seed) for each in range(3)))) for seed in range(30)}
    assert counts == {0, 6}


def answer(choice: int, traceparent: str = "", seed: int = 7) -> Timeline:
    """Of a request for three; the journals of one script may differ by a millisecond."""
    job = choice_jobs(
        pb.Job(request_id="r", n=3, traceparent=traceparent, sampling=api.SamplingParams(seed=seed))
    )[choice]
    job.accepted_ms = 1000 + choice
    phases = [Phase(PhaseName.PREFILL, 1000, 2000, "lm-a")]
    return Timeline(job, phases, pb.JournalEnd(kind=pb.END_KIND_LENGTH), 2000)


def exported(*timelines: Timeline, gateways: int = 1) -> list[ReadableSpan]:
    """What gateways export, each some of the timelines."""
    found: list[ReadableSpan] = []
    for number in range(gateways):
        exporter = InMemorySpanExporter()
        spans = RequestSpans(exporter)
        for each in timelines[number::gateways]:
            spans.export(each)
        spans.close()
        found += exporter.get_finished_spans()
    return found
