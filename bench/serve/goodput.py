"""Targets of latency, and how many requests meet all of them."""

from collections.abc import Iterable, Mapping, Sequence

from bench.serve.measurement import Measurement
from glm4v.errors import InvalidRequest

METRICS = ("ttft", "tpot", "e2el")  # with the names of vLLM's benchmark


def parse_targets(texts: Iterable[str]) -> dict[str, float]:
    """`ttft:2000` and the like, in milliseconds, as seconds by metric. Raises InvalidRequest."""
    targets = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            limit_ms = float(value)
        except ValueError:
            limit_ms = -1.0
        if name not in METRICS or not limit_ms > 0:
            raise InvalidRequest(
                f"--goodput {text}: write METRIC:MILLISECONDS; metrics are {', '.join(METRICS)}"
            )
        targets[name] = limit_ms / 1000
    return targets


def meeting(measurements: Sequence[Measurement], targets: Mapping[str, float]) -> int:
    """How many requests were answered within all targets. A metric that one has not is met."""
    return sum(not each.error and _meets(each, targets) for each in measurements)


def _meets(found: Measurement, targets: Mapping[str, float]) -> bool:
    values = {"ttft": found.ttft_s, "tpot": found.tpot_s, "e2el": found.e2el_s}
    return all((values[name] or 0.0) <= limit for name, limit in targets.items())
