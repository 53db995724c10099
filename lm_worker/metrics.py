"""What the metrics and the reports of a language worker are read from."""

from collections.abc import Callable

from glm4v.internal.v1 import worker_pb2 as pb
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
        "Requests in the scheduler; those that run are the batch.",
        lambda: {("waiting",): engine.waiting, ("running",): engine.running},
        ("state",),
    )
    registry.gauge(
        "glm4v_kv_cache_blocks",
        "Blocks of the KV cache; cached prefixes that nobody uses are available.",
        lambda: {("available",): engine.blocks[0], ("used",): engine.blocks[1] - engine.blocks[0]},
        ("state",),
    )
    _register_counts(registry, engine)


def _register_counts(registry: Registry, engine: Engine) -> None:
    counters = (
        ("glm4v_engine_steps_total", "steps", "Steps executed."),
        (
            "glm4v_engine_computed_tokens_total",
            "computed_tokens",
            "Tokens computed, those of prompts included.",
        ),
        ("glm4v_engine_sampled_tokens_total", "sampled_tokens", "Tokens of answers."),
        (
            "glm4v_engine_prefix_tokens_total",
            "prefix_tokens",
            "Tokens of requests at their start, looked up in the prefix cache.",
        ),
        (
            "glm4v_engine_cached_tokens_total",
            "cached_tokens",
            "Those of them that the prefix cache had.",
        ),
        (
            "glm4v_engine_preemptions_total",
            "preemptions",
            "Running requests whose KV cache blocks were taken for others.",
        ),
        ("glm4v_engine_drafts_total", "drafts", "Drafts that steps have checked."),
        ("glm4v_engine_draft_tokens_total", "draft_tokens", "Tokens of these drafts."),
        (
            "glm4v_engine_accepted_tokens_total",
            "accepted_tokens",
            "Those of them that were right, and saved a step each.",
        ),
        (
            "glm4v_engine_forced_tokens_total",
            "forced_tokens",
            "Tokens that a response format forced, and that saved a step each.",
        ),
    )
    for metric, name, text in counters:
        registry.counter(metric, text, _reader(engine, name))


def _reader(engine: Engine, name: str) -> Callable[[], float]:
    return lambda: float(getattr(engine.counts, name))


def report(engine: Engine) -> pb.WorkerReport:
    """What a language worker is doing."""
    available, total = engine.blocks
    return pb.WorkerReport(
        running=engine.running,
        waiting=engine.waiting,
        done=engine.counts.sampled_tokens,
        kv_blocks_used=total - available,
        kv_blocks_total=total,
    )
