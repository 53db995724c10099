"""What a gateway does with requests that have ended."""

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from gateway.records.recorder import Recorder
from gateway.records.request_line import log_request
from gateway.records.request_metrics import RequestMetrics
from glm4v.broker import Connection, Keys
from glm4v.broker.ended_requests import EndedRequests
from glm4v.errors import ConfigurationError
from glm4v.process.extras import require
from glm4v.telemetry.metrics import Registry

if TYPE_CHECKING:
    from gateway.records.spans import RequestSpans

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CLOSE_S = 3.0


class Records:
    """Runs the recorder, and closes what it exports to."""

    def __init__(self, recorder: Recorder, spans: "RequestSpans | None") -> None:
        self._spans = spans
        self.run = recorder.run

    async def close(self) -> None:
        """Export the last spans, for a few seconds at most."""
        if self._spans is not None:
            with anyio.move_on_after(_CLOSE_S):
                await anyio.to_thread.run_sync(self._spans.close, abandon_on_cancel=True)


def open_records(connection: Connection, keys: Keys, metrics: Registry) -> Records:
    """Log lines and metrics; traces as well where OpenTelemetry's variables name an endpoint.

    Raises ConfigurationError if packages for traces are missing, or an endpoint is not a URL.
    """
    sinks = [log_request, RequestMetrics(metrics).observe]
    spans = None
    if endpoints := [name for name in _ENDPOINTS if os.environ.get(name)]:
        for name in endpoints:
            if urlsplit(os.environ[name]).scheme not in ("http", "https"):
                raise ConfigurationError(f"{name} must be a URL such as http://collector:4318")
        require("opentelemetry", "otlp")
        from gateway.records.spans import RequestSpans

        spans = RequestSpans()
        sinks.append(spans.export)
    return Records(Recorder(EndedRequests(connection, keys), sinks), spans)
