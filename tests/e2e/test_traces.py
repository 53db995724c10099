"""The trace of a request: every stage with the right parent, also after a worker was killed."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub
from tests.e2e.asking import TOKENS, ask, draw
from tests.e2e.fleet import Fleet
from tests.otlp_collector import Collector

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
WORKER = "slow_lm_worker"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_a_request_whose_worker_was_killed(checkpoint_dir: Callable[[str], Path]) -> None:
    with Collector() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with Fleet(checkpoint_dir("micro-glm4v"), environment=environment) as fleet:
            await fleet.start("gateway", "vision_worker", WORKER)
            request = ask("why", draw("traced"))
            await answer(fleet, request)
            found = await spans_of(collector)
            metrics = [
                await fleet.metric("gateway", name, **labels)
                for name, labels in (
                    ("glm4v_requests_total", {"owner": "anonymous", "end": "length"}),
                    ("glm4v_tokens_total", {"type": "output"}),
                    ("glm4v_takeovers_total", {}),
                    ("gen_ai_server_time_to_first_token_seconds_count", {}),
                    ("glm4v_queue_seconds_count", {"queue": "vision"}),
                    ("glm4v_embedding_lookups_total", {"result": "miss"}),
                )
            ]
            log = fleet.log("gateway")
    assert metrics == [1, TOKENS, 1, 1, 1, 1]
    assert f"request={request.request_id} end=length" in log
    root = found[0]
    assert root.trace_id.hex() == TRACE
    assert root.parent_span_id.hex() == PARENT
    assert root.kind == Span.SPAN_KIND_SERVER
    assert attributes(root)["gen_ai.response.id"] == request.request_id
    assert attributes(root)["gen_ai.usage.output_tokens"] == TOKENS
    assert attributes(root)["glm4v.takeovers"] == 1
    names = [span.name for span in found[1:]]
    assert names[:5] == ["vision queue", "encode", "language queue", "prefill", "decode"]
    assert names[5:8] == ["takeover", "prefill", "decode"]
    for before, after in pairwise(found[1:]):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    for span in found[1:]:
        assert span.trace_id == root.trace_id
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    first, second = (attributes(span)["glm4v.worker"] for span in found if span.name == "prefill")
    assert first != second


async def answer(fleet: Fleet, request: api.GenerateRequest) -> None:
    """Read an answer to its end; its first worker is killed after three tokens."""
    is_killed, tokens = False, 0
    async with grpc.aio.insecure_channel(fleet.target()) as channel:
        call = InferenceServiceStub(channel).Generate(
            request, timeout=60, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")]
        )
        async for reply in call:
            tokens += len(reply.event.delta.token_ids)
            if tokens >= 3 and not is_killed:
                is_killed = True
                await fleet.kill(WORKER)
                await fleet.start(WORKER)
    assert is_killed


async def spans_of(collector: Collector) -> list[Span]:
    """The spans, once that of the request has arrived: it first, then by time."""
    assert await asyncio.to_thread(collector.has_request.wait, 20)
    return sorted(
        collector.spans,
        key=lambda span: (span.kind != Span.SPAN_KIND_SERVER, span.start_time_unix_nano),
    )


def attributes(span: Span) -> dict[str, object]:
    """Attributes of a span that are texts or integers."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
