"""The trace of a request that has ended: a span for it, and one for each of its phases.

OpenTelemetry's SDK exports them over OTLP. It reads its own variables, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER`:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from glm4v import __version__
from glm4v.broker.choices import candidates, first_choice
from glm4v.broker.timeline import Phase, Timeline
from glm4v.internal.v1 import journal_pb2 as pb

_MS = 1_000_000  # nanoseconds
_TELL_EVERY_S = 60.0
_FAILURES = (pb.END_KIND_FAILED, pb.END_KIND_EXPIRED)


class RequestSpans:
    """Exports timelines as traces. The exporter's thread never blocks a caller."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            id_generator=self._ids,
            resource=Resource.create(
                {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "glm4v-gateway")}
            ),
            shutdown_on_exit=False,
        )
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_NowAndThen())
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("glm4v", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def export(self, timeline: Timeline) -> None:
        """Make the spans of a request; the caller's span is their parent if it sent one.

        Without one the other answers of a request are below the first.
        """
        job, end = timeline.job, timeline.end
        assert end is not None  # only ended requests are recorded
        parent = self._propagator.extract({"traceparent": job.traceparent})
        if job.choice and not get_current_span(parent).get_span_context().is_valid:
            parent = set_span_in_context(self._root(first_choice(job), parent))
        root = self._root(job, parent, _attributes(timeline))
        if end.kind in _FAILURES:
            root.set_status(Status(StatusCode.ERROR, end.message))
            root.set_attribute("error.type", timeline.end_reason)
        inside = set_span_in_context(root)
        for phase in timeline.phases:
            span = self._tracer.start_span(
                str(phase.name),
                context=inside,
                start_time=phase.start_ms * _MS,
                attributes=_phase_attributes(phase),
            )
            span.end(max(phase.start_ms, phase.end_ms) * _MS)
        root.end(max(job.accepted_ms, timeline.end_ms) * _MS)

    def _root(
        self, job: pb.Job, parent: Context, attributes: Mapping[str, AttributeValue] | None = None
    ) -> Span:
        """The span of one answer; it is exported once it has ended."""
        self._ids.begin(_seed(job))
        return self._tracer.start_span(
            f"chat {job.fingerprint}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=job.accepted_ms * _MS,
            attributes=attributes,
        )

    def close(self) -> None:
        """Export what is left; blocks for at most the exporter's time-out."""
        self._provider.shutdown()


class _NowAndThen(logging.Filter):
    """Lets one record a minute pass: the exporter logs every try and every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _TELL_EVERY_S
        return True


class _Ids(IdGenerator):
    """Ids that follow from the request, so that a request exported twice is one trace."""

    def __init__(self) -> None:
        self._seed, self._count = "", 0

    def begin(self, seed: str) -> None:
        """Start the ids of a request."""
        self._seed, self._count = seed, 0

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return int.from_bytes(self._digest("trace")[:16]) or 1

    def generate_span_id(self) -> int:
        """See IdGenerator."""
        self._count += 1
        return int.from_bytes(self._digest(f"span {self._count}")[:8]) or 1

    def _digest(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._seed} {name}".encode()).digest()


def _seed(job: pb.Job) -> str:
    """What the ids of an answer follow from; other answers know that of the first one."""
    if candidates(job) == 1:
        return f"{job.request_id} {job.accepted_ms}"
    first = first_choice(job)  # accepted at once, but journals may differ by a millisecond
    return f"{job.request_id} {first.sampling.seed}"


def _attributes(timeline: Timeline) -> dict[str, AttributeValue]:
    """Names of https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and our own."""
    job = timeline.job
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "glm4v",
        "gen_ai.request.model": job.fingerprint,
        "gen_ai.request.max_tokens": job.max_tokens,
        "gen_ai.response.id": job.request_id,
        "gen_ai.response.finish_reasons": [timeline.end_reason],
        "gen_ai.usage.input_tokens": timeline.input_tokens,
        "gen_ai.usage.output_tokens": timeline.tokens,
        "glm4v.takeovers": timeline.takeovers,
    }
    if timeline.time_to_first_token_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = timeline.time_to_first_token_s
    return found


def _phase_attributes(phase: Phase) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {}
    if phase.worker:
        found["glm4v.worker"] = phase.worker
    if phase.tokens:
        found["gen_ai.usage.output_tokens"] = phase.tokens
    if phase.isolated:
        found["glm4v.isolated"] = True
    return found
