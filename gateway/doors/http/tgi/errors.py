"""Errors in TGI's form."""

from gateway.doors.http.errors import Problem
from gateway.doors.http.json_text import json_bytes

_STATUSES = {400: 422, 499: 424, 504: 500}
_TYPES = {
    401: "unauthorized",
    422: "validation",
    424: "generation",
    429: "overloaded",
    500: "incomplete_generation",
    503: "unhealthy",
}


class TgiErrors:
    """`{"error": text, "error_type": type}`."""

    def status(self, problem: Problem) -> int:
        """See ErrorForm. A request that failed is 424."""
        if problem.status == 500 and problem.incident is None:
            return 424
        return _STATUSES.get(problem.status, problem.status)

    def body(self, problem: Problem) -> bytes:
        """See ErrorForm."""
        kind = _TYPES.get(self.status(problem), "validation")
        return json_bytes({"error": problem.message, "error_type": kind})

    def frame(self, problem: Problem) -> bytes:
        """See ErrorForm. Both clients of TGI know this type in a stream."""
        return json_bytes({"error": problem.message, "error_type": "generation"})


TGI_ERRORS = TgiErrors()
