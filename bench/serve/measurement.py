"""What was seen of one request."""

import time
from dataclasses import dataclass, field

from bench.serve.formats import Frame


@dataclass(slots=True)
class Measurement:
    """Times are seconds after the load began.

    Attributes:
        number: Of the request.
        has_image: Whether it had one.
        planned_s: When it arrived by the plan; in a closed loop, when its caller was free.
        released_s: When the load generator came to it; what it was late by is its own fault.
        sent_s: When it was sent: later than that where too many requests were in flight.
        first_s: When its first token came; None without one.
        ended_s: When its stream had ended.
        gaps_s: Between frames with tokens.
        prompt_tokens: None where the format does not say.
        output_tokens: Counted, where the format does not say.
        error: A code; empty for a request that was answered.
        details: Of the error.
    """

    number: int
    has_image: bool
    planned_s: float
    released_s: float = 0.0
    sent_s: float = 0.0
    first_s: float | None = None
    ended_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int = 0
    error: str = ""
    details: str = ""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the planned arrival on, so that no delay is left out."""
        return None if self.first_s is None else self.first_s - self.planned_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return sum(self.gaps_s) / (self.output_tokens - 1)

    @property
    def e2el_s(self) -> float:
        """End-to-end latency, from the planned arrival on."""
        return self.ended_s - self.planned_s


class FrameTimer:
    """Notes the frames of one request in its measurement."""

    def __init__(self, measurement: Measurement, began: float) -> None:
        self._measurement = measurement
        self._began = began
        self._last: float | None = None
        self._counted = 0

    def __call__(self, frame: Frame) -> None:
        """A frame has come."""
        found = self._measurement
        if frame.tokens:
            now = time.perf_counter() - self._began
            if self._last is None:
                found.first_s = now
            else:
                found.gaps_s.append(now - self._last)
            self._last = now
            self._counted += frame.tokens
            found.output_tokens = self._counted
        if frame.prompt_tokens is not None:
            found.prompt_tokens = frame.prompt_tokens
        if frame.output_tokens is not None:
            found.output_tokens = frame.output_tokens
