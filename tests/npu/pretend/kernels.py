"""Which operators of torch the NPU has kernels for."""

from functools import cache

import torch

_has = torch._C._dispatch_has_kernel_for_dispatch_key
_ANY_DEVICE = ("PrivateUse1", "CompositeExplicitAutograd")


@cache
def is_composite(func: torch._ops.OpOverload) -> bool:
    """Whether it has to be taken apart: no kernel of its own, or a view that may be a copy."""
    name = func.name()
    has_own = _has(name, "PrivateUse1") and not func.is_view
    return _has(name, "CompositeImplicitAutograd") and not has_own


@cache
def has_kernel(func: torch._ops.OpOverload) -> bool:
    """Whether torch_npu computes it; it moves the tensors of all others to the CPU, and back.

    A structured operator without a kernel of its own calls the one that writes to `out`.
    """
    name = func.name()
    if any(_has(name, key) for key in _ANY_DEVICE):
        return True
    if not _has(name, "CompositeExplicitAutogradNonFunctional"):
        return False
    base = func._schema.name.removesuffix("_")
    overloads = getattr(torch.ops.aten, base.removeprefix("aten::")).overloads()
    return any(
        _has(f"{base}.{overload}", "PrivateUse1")
        for overload in overloads
        if overload in ("out", f"{func._overloadname}_out", "values", "dim_max")
    )
