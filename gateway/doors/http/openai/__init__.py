"""OpenAI's chat API: `/v1/chat/completions` and `/v1/models`.

Source: OpenAI's API reference, and vLLM's and MindIE's additions to it.
"""

from gateway.doors.http.openai.errors import ERRORS
from gateway.doors.http.openai.routes import make_router

__all__ = ["ERRORS", "make_router"]
