"""The registry: names as Prometheus has them, values read when somebody asks."""

import asyncio

import pytest

from glm4v.telemetry import metrics
from glm4v.telemetry.metrics import Registry


async def test_values_are_read_at_each_collection() -> None:
    registry, counts = Registry(), {("waiting",): 1, ("running",): 2}

    async def length() -> float:
        return 7

    registry.counter("glm4v_steps_total", "Steps.", lambda: sum(counts.values()))
    registry.gauge("glm4v_requests", "Requests.", lambda: counts, ("state",))
    registry.gauge("glm4v_queue_jobs", "Jobs.", length)
    counts["waiting",] = 4
    # The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
    assert (await registry.text()).decode() == (
        "# HELP glm4v_steps_total Steps.\n"
        "# TYPE glm4v_steps_total counter\n"
        "glm4v_steps_total 6.0\n"
        "# HELP glm4v_requests Requests.\n"
        "# TYPE glm4v_requests gauge\n"
        'glm4v_requests{state="waiting"} 4.0\n'
        'glm4v_requests{state="running"} 2.0\n'
        "# HELP glm4v_queue_jobs Jobs.\n"
        "# TYPE glm4v_queue_jobs gauge\n"
        "glm4v_queue_jobs 7.0\n"
    )


async def test_a_histogram_counts_what_is_observed_in_cumulative_buckets() -> None:
    registry = Registry()
    waits = registry.histogram("glm4v_queue_seconds", "Waits.", (0.1, 1), ("queue",))
    for value in (0.05, 0.5, 0.6, 5):
        waits.labels("vision").observe(value)
    assert (await registry.text()).decode() == (
        "# HELP glm4v_queue_seconds Waits.\n"
        "# TYPE glm4v_queue_seconds histogram\n"
        'glm4v_queue_seconds_bucket{le="0.1",queue="vision"} 1.0\n'
        'glm4v_queue_seconds_bucket{le="1.0",queue="vision"} 3.0\n'
        'glm4v_queue_seconds_bucket{le="+Inf",queue="vision"} 4.0\n'
        'glm4v_queue_seconds_count{queue="vision"} 4.0\n'
        'glm4v_queue_seconds_sum{queue="vision"} 6.15\n'
    )


async def test_a_metric_that_cannot_be_read_is_left_out_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "_READ_TIMEOUT_S", 0.05)
    registry = Registry()

    async def hang() -> float:
        await asyncio.sleep(1000)
        return 0

    registry.gauge("glm4v_hanging", "Never there.", hang)
    registry.gauge("glm4v_broken", "Raises.", lambda: 1 / 0)
    registry.gauge("glm4v_whole", "Is there.", lambda: 1)
    assert [metric.name for metric in await registry.collect()] == ["glm4v_whole"]
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(messages) == [
        "metric glm4v_broken could not be read: division by zero",
        "metric glm4v_hanging could not be read: TimeoutError",
    ]


@pytest.mark.parametrize("name", ["steps", "glm4v_Steps", "glm4v_steps_", "glm4v-steps"])
def test_names_are_in_the_form_of_prometheus(name: str) -> None:
    with pytest.raises(ValueError, match="must be glm4v_"):
        Registry().gauge(name, "", lambda: 1)


def test_the_end_of_a_name_says_the_kind() -> None:
    registry = Registry()
    with pytest.raises(ValueError, match="must end with _total"):
        registry.counter("glm4v_steps", "", lambda: 1)
    with pytest.raises(ValueError, match="only names of counters"):
        registry.gauge("glm4v_steps_total", "", lambda: 1)
    with pytest.raises(ValueError, match="must end with _info"):
        registry.info("glm4v_worker", "", {})
    registry.counter("glm4v_steps_total", "", lambda: 1)
    with pytest.raises(ValueError, match="registered already"):
        registry.counter("glm4v_steps_total", "", lambda: 1)
