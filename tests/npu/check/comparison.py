"""Compares each fused operator with its reference, as the project's own code calls it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.npu.pretend.arguments import bind
from tests.npu.pretend.references import REFERENCES

# Largest difference, as a share of the largest value of the expected result. A unit in the last
# place of float16 is 2^-10 of a value, of bfloat16 2^-7; sums of many products are off by some.
TOLERANCE = {torch.float16: 2**-7, torch.bfloat16: 2**-4, torch.float32: 2**-10}
_FIXED_RESULT = ".out"  # of graphs, which cannot be read while they are captured or updated
_UNWRITTEN = ("_get_max_workspace", "_infer_output")  # memory that is only reserved


@dataclass(slots=True)
class Difference:
    """The largest one over all calls of an operator, as a share of its tolerance."""

    calls: int = 0
    share: float = 0.0
    where: str = ""  # dtype and shape of the result that differs most

    @property
    def is_within(self) -> bool:
        """Whether all results are near the reference's."""
        return self.share <= 1.0


class Comparison(TorchDispatchMode):
    """Inside, every operator that has a reference is computed on the CPU too."""

    def __init__(self) -> None:
        super().__init__()
        self.differences: dict[str, Difference] = {}
        self._references = dict(REFERENCES)

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.name()
        reference = self._references.get(name)
        is_ours = name.endswith((_FIXED_RESULT, *_UNWRITTEN)) or _is_capturing()
        if reference is None or is_ours:
            return func(*args, **kwargs)
        host_args, host_kwargs = tree_map(_on_host, (tuple(args), kwargs))
        result = func(*args, **kwargs)
        expected = reference(*host_args, **host_kwargs)
        difference = self.differences.setdefault(name, Difference())
        difference.calls += 1
        written = _written(func)
        given, wanted = bind(func, args, kwargs), bind(func, host_args, host_kwargs)
        pairs = list(zip(tree_leaves(result), tree_leaves(expected), strict=False))
        pairs += [(given[each], wanted[each]) for each in written]
        for got, right in pairs:
            if isinstance(got, torch.Tensor) and got.numel():
                _compare(difference, got, right)
        return result


def _compare(difference: Difference, got: torch.Tensor, expected: torch.Tensor) -> None:
    left, right = got.cpu().double(), expected.double()
    both_nan = left.isnan() & right.isnan()  # memory that was never written
    error = (left - right).masked_fill(both_nan, 0.0).abs()
    scale = max(float(right.nan_to_num(0.0, 0.0, 0.0).abs().max()), 1e-3)
    worst = float(error.nan_to_num(torch.inf, torch.inf).max())
    share = worst / scale / TOLERANCE.get(got.dtype, 1e-12)  # integers are equal
    if share >= difference.share:
        difference.share = share
        difference.where = f"{str(got.dtype).removeprefix('torch.')} {list(got.shape)}"


def _written(func: torch._ops.OpOverload) -> list[str]:
    """Names of the arguments that the operator writes to."""
    return [
        argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _on_host(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _is_capturing() -> bool:
    import torch_npu

    return bool(torch_npu.npu.is_current_stream_capturing())
