"""vLLM's own format (POST /generate with `prompt`), as vLLM and as MindIE speak it."""

from gateway.doors.http.vllm.responses import ERRORS, respond

__all__ = ["ERRORS", "respond"]
