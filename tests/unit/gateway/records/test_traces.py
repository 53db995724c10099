"""Traces whose collector is away, or was named wrongly."""

import logging
import socket
import time

import pytest

from gateway.records.records import open_records
from gateway.records.spans import RequestSpans
from glm4v.broker import Connection, Keys
from glm4v.broker.timeline import Phase, PhaseName, Timeline
from glm4v.errors import ConfigurationError
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.telemetry.metrics import Registry

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
