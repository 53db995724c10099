"""What a load came to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.serve.goodput import meeting
from bench.serve.measurement import Measurement

SHARES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of a time, in milliseconds; None where there was nothing to measure."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One load.

    Attributes:
        requests: That have ended.
        failures: Of these, by code.
        duration_s: From the beginning to the last end.
        requests_per_s, tokens_per_s: Of answered requests, and of their output tokens.
        goodput_per_s: Of requests within all targets; None without targets.
        ttft, tpot, itl, e2el: Time to first token, time per output token after it, time between
            frames with tokens, end-to-end latency.
        late: Of the load generator itself: a value that is not small spoils all others.
        waited: For a place among the requests in flight.
    """

    requests: int
    failures: dict[str, int]
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    output_tokens: int
    prompt_tokens: int
    goodput_per_s: float | None
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2el: Spread
    late: Spread
    waited: Spread


def summarize(measurements: Sequence[Measurement], targets: Mapping[str, float]) -> Summary:
    """The figures of requests that have ended; latencies are of those that were answered."""
    answered = [each for each in measurements if not each.error]
    duration_s = max((each.ended_s for each in measurements), default=0.0)
    tokens = sum(each.output_tokens for each in answered)
    good = meeting(measurements, targets) if targets else None
    return Summary(
        requests=len(measurements),
        failures=dict(Counter(each.error for each in measurements if each.error)),
        duration_s=duration_s,
        requests_per_s=_rate(len(answered), duration_s),
        tokens_per_s=_rate(tokens, duration_s),
        output_tokens=tokens,
        prompt_tokens=sum(each.prompt_tokens or 0 for each in answered),
        goodput_per_s=None if good is None else _rate(good, duration_s),
        ttft=spread(each.ttft_s for each in answered),
        tpot=spread(each.tpot_s for each in answered),
        itl=spread(gap for each in answered for gap in each.gaps_s),
        e2el=spread(each.e2el_s for each in answered),
        late=spread(each.released_s - each.planned_s for each in measurements),
        waited=spread(each.sent_s - each.released_s for each in measurements),
    )


def spread(seconds: Iterable[float | None]) -> Spread:
    """Mean and percentiles (linear between two values, as numpy's) in milliseconds."""
    values = [1000 * value for value in seconds if value is not None]
    if not values:
        return Spread(None, None, None, None)
    return Spread(float(np.mean(values)), *(float(np.percentile(values, at)) for at in SHARES))


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
