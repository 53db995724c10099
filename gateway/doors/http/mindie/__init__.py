"""MindIE's own format: POST /infer, and /infer_token for prompts of token ids.

Both take the same bodies. Source: MindIE-LLM, `single_req_self_develop_infer_interface.cpp`.
"""

from gateway.doors.http.mindie.router import make_router

__all__ = ["make_router"]
