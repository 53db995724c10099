"""Errors in MindIE's form, which it uses in every format."""

from gateway.doors.http.errors import Problem
from gateway.doors.http.json_text import json_bytes

_STATUSES = {400: 422, 413: 422, 429: 503, 499: 424, 504: 500}
_TYPES = {
    401: "Unauthorized",
    404: "NotFoundError",
    422: "Input Validation Error",
    424: "Generation Error",
    500: "Incomplete Generation",
    503: "Service Unavailable",
}


class MindieErrors:
    """`{"error": text, "error_type": text}`, before a stream and in it."""

    def status(self, problem: Problem) -> int:
        """See ErrorForm. MindIE has a few statuses only; a request that failed is 424."""
        if problem.status == 500 and problem.incident is None:
            return 424
        return _STATUSES.get(problem.status, problem.status)

    def body(self, problem: Problem) -> bytes:
        """See ErrorForm."""
        kind = _TYPES.get(self.status(problem), "Bad Request")
        return json_bytes({"error": problem.message, "error_type": kind})

    def frame(self, problem: Problem) -> bytes:
        """See ErrorForm. MindIE itself writes raw text there, which no client recognises."""
        return self.body(problem)


MINDIE_ERRORS = MindieErrors()
