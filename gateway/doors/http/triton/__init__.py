"""Triton's and KServe's HTTP: `/v2`, the generate extension and the tensors of `/infer`.

The request is that of `gateway.doors.kserve`, in JSON. MindIE's dialect has the same paths with
fields of its own. Sources: KServe, "Open Inference Protocol"; Triton, "Generate Extension" and
"Binary Tensor Data Extension"; MindIE-LLM, src/server/endpoint.
"""

from gateway.doors.http.triton.routes import make_router

__all__ = ["make_router"]
