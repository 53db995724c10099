"""What the metrics of a language worker are read from."""

from glm4v.telemetry.metrics import Registry
from lm_worker.engine.engine import Engine


def register_metrics(registry: Registry, engine: Engine, consumer: str) -> None:
    """Register the metrics of one worker; `consumer` is its name in the queue's group."""
    registry.info("glm4v_worker_info", "The consumer that claims jobs.", {"consumer": consumer})
    registry.counter(
        "glm4v_engine_seconds_total",
        "Time of all steps, by what it was spent on.",
        lambda: {(part,): seconds for part, seconds in engine.seconds._asdict().items()},
        ("part",),
    )
    registry.gauge(
        "glm4v_engine_requests",
        "Requests in the scheduler.",
        lambda: {("waiting",): engine.waiting, ("running",): engine.running},
        ("state",),
    )
    registry.counter(
        "glm4v_engine_preemptions_total",
        "Running requests whose KV cache blocks were taken for others.",
        lambda: engine.preemptions,
    )
    registry.gauge(
        "glm4v_kv_cache_blocks",
        "Blocks of the KV cache; cached prefixes that nobody uses are available.",
        lambda: {("available",): engine.blocks[0], ("used",): engine.blocks[1] - engine.blocks[0]},
        ("state",),
    )
