"""Errors as tritonclient reads them: `{"error": text}`."""

from gateway.doors.http.dialect import Dialect
from gateway.doors.http.errors import ErrorForm, Problem
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.errors import MINDIE_ERRORS


class TritonErrors:
    """The text has to be a string: tritonclient shows what else is there as Python prints it."""

    def status(self, problem: Problem) -> int:
        """See ErrorForm."""
        return problem.status

    def body(self, problem: Problem) -> bytes:
        """See ErrorForm."""
        return json_bytes({"error": problem.message})

    def frame(self, problem: Problem) -> bytes:
        """See ErrorForm."""
        return self.body(problem)


TRITON_ERRORS = TritonErrors()
ERRORS: dict[Dialect, ErrorForm] = {
    Dialect.ORIGINAL: TRITON_ERRORS,
    Dialect.MINDIE: MINDIE_ERRORS,
}
