"""TGI's format, as text-generation-inference speaks it and as MindIE does."""

from gateway.doors.http.tgi.responses import ERRORS, respond

__all__ = ["ERRORS", "respond"]
