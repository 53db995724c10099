"""HCCL's part: collective operations of NPU tensors go over gloo, in the host's memory.

With PRETEND_NPU_WRONG_SUMS each rank doubles what it adds: a fault for tests of tests.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist


def over_gloo(func: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operation with the group that it names replaced by one of the same ranks over gloo."""

    def run(*args: Any, **kwargs: Any) -> Any:
        group = _gloo()
        own = [group if _is_group(arg) else arg for arg in args]
        if os.environ.get("PRETEND_NPU_WRONG_SUMS") and func.name() == "c10d::allreduce_":
            own[0][0].mul_(2)
        result = func(*own, **kwargs)
        result[-1].wait()
        return result

    return run


@cache
def _gloo() -> Any:
    """All ranks make this call at their first collective operation."""
    return dist.new_group(backend="gloo").boxed()


def _is_group(value: object) -> bool:
    return (
        isinstance(value, torch.ScriptObject) and "ProcessGroup" in value._type().qualified_name()
    )
