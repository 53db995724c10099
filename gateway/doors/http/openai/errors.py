"""Errors as OpenAI's clients read them.

`type` has words for the status, because LiteLLM looks at these first: a 503 that says
`invalid_request_error` would never be retried.
"""

from typing import Any

from gateway.doors.http.errors import Problem
from gateway.doors.http.json_text import json_bytes

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    499: "request_cancelled",
    503: "overloaded_error",
    504: "timeout_error",
}


class OpenAiErrors:
    """See ErrorForm."""

    def status(self, problem: Problem) -> int:
        """The problem's."""
        return problem.status

    def body(self, problem: Problem) -> bytes:
        """`code` is a name, or null."""
        return _error(problem, problem.code)

    def frame(self, problem: Problem) -> bytes:
        """`code` is the status, as benchmark tools want an integer there."""
        return _error(problem, problem.status)


ERRORS = OpenAiErrors()


def _error(problem: Problem, code: Any) -> bytes:
    other = "invalid_request_error" if problem.status < 500 else "server_error"
    return json_bytes(
        {
            "error": {
                "message": problem.message,
                "type": _TYPES.get(problem.status, other),
                "param": problem.field,
                "code": code,
            }
        }
    )
