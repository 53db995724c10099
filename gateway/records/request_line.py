"""The line in the log about a request that has ended, in logfmt.

Values that are not plain words are quoted and escaped as JSON strings, as Go's logfmt libraries
read them (https://pkg.go.dev/github.com/go-logfmt/logfmt).
"""

import json
import logging
import re

from glm4v.broker.timeline import PhaseName, Timeline

log = logging.getLogger(__name__)

_WORD = re.compile(r"[\w.:/+-]+")


def log_request(timeline: Timeline) -> None:
    """Log one line of NAME=VALUE pairs; times are seconds, those of phases are sums."""
    if log.isEnabledFor(logging.INFO):
        log.info(
            "%s", " ".join(f"{name}={_value(text)}" for name, text in fields(timeline).items())
        )


def fields(timeline: Timeline) -> dict[str, str]:
    """The pairs; times that the request did not reach are left out."""
    job = timeline.job
    found = {
        "request": job.request_id,
        "end": timeline.end_reason,
        "model": job.fingerprint,
        "client": job.client[:12],
        "input_tokens": str(timeline.input_tokens),
        "tokens": str(timeline.tokens),
        "total_s": _seconds(timeline.duration_s),
    }
    if timeline.time_to_first_token_s is not None:
        found["time_to_first_token_s"] = _seconds(timeline.time_to_first_token_s)
    for name in PhaseName:
        if any(phase.name is name for phase in timeline.phases):
            found[f"{name.replace(' ', '_')}_s"] = _seconds(timeline.seconds(name))
    if timeline.end is not None and timeline.end.message:
        found["message"] = timeline.end.message
    if timeline.takeovers:
        found["takeovers"] = str(timeline.takeovers)
    return found


def _value(text: str) -> str:
    return text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _seconds(value: float) -> str:
    return f"{value:.3f}"
