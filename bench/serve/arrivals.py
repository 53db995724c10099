"""When requests arrive in an open loop, drawn before it begins."""

import itertools
from collections.abc import Iterator

import numpy as np


def arrivals(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Seconds after the beginning, without end.

    Gaps are drawn from a gamma distribution of mean 1 / `rate`, as vLLM's and aiperf's benchmarks
    do: with a `burstiness` of 1 arrivals are a Poisson process, below 1 they come in bursts, above
    1 they are more regular. The standard deviation of a gap is its mean / sqrt(`burstiness`).
    """
    generator = np.random.default_rng(seed)
    gaps = (generator.gamma(burstiness, 1 / (rate * burstiness)) for _ in itertools.count())
    return itertools.accumulate(gaps)
