"""Products in float16: computed in float32 and rounded once, as the chips' matrix units do.

torch's own kernels for float16 on a CPU take six times as long, those of convolutions twenty.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

PRODUCTS = {f"aten::{name}" for name in ("addmm", "bmm", "convolution", "linear", "matmul", "mm")}


def in_float32(func: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operator with tensors in float16 widened, and its result rounded to it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not any(map(_is_half, tree_leaves([args, kwargs]))):
            return func(*args, **kwargs)
        wide_args, wide_kwargs = tree_map(_widened, (args, kwargs))
        return func(*wide_args, **wide_kwargs).half()

    return run


def _is_half(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def _widened(value: Any) -> Any:
    return value.float() if _is_half(value) else value
