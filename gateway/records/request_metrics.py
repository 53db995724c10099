"""Metrics of requests that have ended."""

from collections import Counter

from glm4v.broker.timeline import PhaseName, Timeline
from glm4v.telemetry.metrics import Registry

# Those that the semantic conventions advise, and longer ones: an image on a CPU takes a minute.
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0),
)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_DURATION_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
_QUEUES = {PhaseName.VISION_QUEUE: "vision", PhaseName.LANGUAGE_QUEUE: "language"}


class RequestMetrics:
    """Observes timelines; each request is observed by one gateway."""

    def __init__(self, registry: Registry) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._takeovers = 0
        self._register_counters(registry)
        self._in_queue = registry.histogram(
            "glm4v_queue_seconds",
            "Time that a request waited for a worker.",
            _DURATION_S,
            ("queue",),
        )
        self._encode = registry.histogram(
            "glm4v_encode_seconds", "Time to encode the image of a request.", _DURATION_S
        )
        self._first_token = registry.histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from acceptance to the first token.",
            _FIRST_TOKEN_S,
        )
        self._per_token = registry.histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a request.",
            _PER_TOKEN_S,
        )
        self._gaps = registry.histogram(
            "glm4v_inter_token_seconds", "Time between tokens of a request.", _PER_TOKEN_S
        )
        self._duration = registry.histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from acceptance to the end.",
            _DURATION_S,
            ("end",),
        )

    def observe(self, timeline: Timeline) -> None:
        """Count a request."""
        job, end = timeline.job, timeline.end_reason
        owner = job.owner or "anonymous"
        self._ended[owner, end] += 1
        if job.choice == 0:  # all choices share one prompt
            self._tokens[owner, "input"] += timeline.input_tokens
        self._tokens[owner, "output"] += timeline.tokens
        self._takeovers += timeline.takeovers
        self._duration.labels(end).observe(timeline.duration_s)
        for phase in timeline.phases:
            if queue := _QUEUES.get(phase.name):
                self._in_queue.labels(queue).observe(phase.seconds)
            elif phase.name is PhaseName.ENCODE:
                self._encode.observe(phase.seconds)
        if timeline.time_to_first_token_s is not None:
            self._first_token.observe(timeline.time_to_first_token_s)
        gaps_s = timeline.token_gaps_s
        for gap_s in gaps_s:
            self._gaps.observe(gap_s)
        if timeline.tokens > 1:
            self._per_token.observe(sum(gaps_s) / (timeline.tokens - 1))

    def _register_counters(self, registry: Registry) -> None:
        registry.counter(
            "glm4v_requests_total",
            "Requests that have ended, by owner of the API key and by how they ended.",
            lambda: self._ended,
            ("owner", "end"),
        )
        registry.counter(
            "glm4v_tokens_total",
            "Tokens of requests that have ended, by owner of the API key.",
            lambda: self._tokens,
            ("owner", "type"),
        )
        registry.counter(
            "glm4v_takeovers_total",
            "Times that a language worker continued a request of one that died.",
            lambda: self._takeovers,
        )
