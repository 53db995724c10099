"""Computes on the pretend device: each operator that reaches an NPU tensor runs on the CPU.

Operators of torch use torch's own CPU kernels, those of `npu::` and `atb::` the references. What a
real device would refuse, or do badly in silence, is refused here:

    an operator without an NPU kernel     torch_npu would move its tensors to the CPU and back
    CPU tensors among NPU tensors         the few that an operator reads on the host left out
    what the contracts forbid             dtypes, shapes, formats, values
    a result unlike the Meta kernel's     the reference is wrong, or the operator has changed
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import tests.npu.pretend.int8_contract  # noqa: F401 - adds its rules to the contracts
from tests.npu.pretend import collectives, references
from tests.npu.pretend.arguments import bind
from tests.npu.pretend.contracts import check_contract
from tests.npu.pretend.kernels import has_kernel, is_composite
from tests.npu.pretend.memory import alias, is_npu, on_npu
from tests.npu.pretend.products import PRODUCTS, in_float32
from tests.npu.pretend.recorder import Call, Recorder

# These only allocate or rename memory, which torch_npu does itself.
_ALLOCATIONS = {"aten::empty.memory_format", "aten::empty_strided", "aten::record_stream"}
_ALLOCATIONS |= {"aten::set_.source_Storage_storage_offset", "npu::empty_with_format"}
_ALLOCATIONS |= {"npu::npu_change_data_ptr"}
_MOVES = {"aten::copy_", "aten::_to_copy"}  # between host and device
_TO_HOST = {"aten::_local_scalar_dense"}
# Indices may lie on the host, as for every device of torch.
_HOST_INDICES = {"aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}
# Tensors that an operator reads on the host; on the device they are refused.
HOST_ARGUMENTS = {
    "atb::_npu_flash_attention_unpad": "seq_len",
    "atb::_npu_paged_attention_splitfuse_v2": "seq_len",
}

CALLS: Counter[str] = Counter()  # operators that ran in this process, by name


class Emulation(TorchDispatchMode):
    """The arithmetic of one thread's pretend device; `calls` counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._recorder = Recorder.of_this_thread()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.name()
        device = _device(args, kwargs)
        if device is None or name in _ALLOCATIONS:
            return func(*args, **kwargs)
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if func.is_view:
            return func(*args, **kwargs)
        self._check(func, args, kwargs)
        self.calls[name] += 1
        _count(name)
        return self._run(func, args, kwargs, device)

    def _check(
        self, func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        name, named = func.name(), bind(func, args, kwargs)
        if func.namespace == "aten" and not has_kernel(func):
            raise NotImplementedError(f"torch_npu has no kernel for {name}")
        given = [x for x in tree_leaves(list(named.values())) if isinstance(x, torch.Tensor)]
        on_host = [x for x in given if x.device.type == "cpu" and x.dim()]
        if (host_argument := HOST_ARGUMENTS.get(name)) is not None:
            if is_npu(named[host_argument]):
                raise RuntimeError(f"{name} reads {host_argument} on the host")
            on_host = [x for x in on_host if x is not named[host_argument]]
        if on_host and len(on_host) < len(given) and name not in _MOVES | _HOST_INDICES:
            raise RuntimeError(f"{name}: tensors on the NPU and on the CPU")
        check_contract(name, named)

    def _run(
        self,
        func: torch._ops.OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        device: torch.device,
    ) -> Any:
        name = func.name()
        call = Call(_implementation(func), *_lowered(args, kwargs))
        if self._recorder.is_updating:  # kept for the next replay, not computed now
            self._recorder.update(call)
            return kwargs.get("out")
        is_recording = self._recorder.is_recording
        if device.type == "cpu" or name in _TO_HOST:
            _wait(is_recording)
        result = call.on_copies() if is_recording else call()
        if func.namespace in ("npu", "atb"):
            _compare_with_meta(func, args, kwargs, result)
        outputs: list[tuple[int, torch.Tensor]] = []
        leaves = tree_leaves(result)

        def raised(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or device.type == "cpu":
                return value
            if (given := call.argument(value)) is not None:
                return _original(given, args, kwargs)
            new = on_npu(value, device, copy=not is_recording)
            outputs.append((next(i for i, x in enumerate(leaves) if x is value), alias(new)))
            return new

        raised_result = args[0] if name == "aten::copy_" else tree_map(raised, result)
        if is_recording:
            call.outputs = outputs
            self._recorder.record(call)
        return raised_result


def _count(name: str) -> None:
    """Count in this process; a file of its own in PRETEND_NPU_CALLS has each name once."""
    CALLS[name] += 1
    folder = os.environ.get("PRETEND_NPU_CALLS")
    if folder and CALLS[name] == 1:
        with Path(folder, str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def _wait(is_recording: bool) -> None:
    """What a value is read from waits for the device, and hears of its failure there."""
    import torch_npu

    if is_recording:
        raise RuntimeError("a captured step cannot read what it computes")
    torch_npu.npu.current_stream().synchronize()


def _device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where the result belongs; None for an operator that has nothing to do with the NPU."""
    target = kwargs.get("device")
    given = next((x for x in tree_leaves([args, kwargs]) if is_npu(x)), None)
    if target is not None:
        target = torch.device(target)
        return target if given is not None or target.type == "npu" else None
    return None if given is None else given.device


def _implementation(func: torch._ops.OpOverload) -> Callable[..., Any]:
    if func.namespace == "c10d":
        return collectives.over_gloo(func)
    if func.name() in PRODUCTS:
        return in_float32(func)
    if func.namespace not in ("npu", "atb"):
        return func
    reference = references.REFERENCES.get(func.name())
    if reference is None:
        raise NotImplementedError(f"no reference for {func._schema}")
    return reference


def _lowered(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with CPU tensors over the same bytes."""

    def lowered(value: Any) -> Any:
        if is_npu(value):
            return alias(value)
        if isinstance(value, torch.device) and value.type == "npu":
            return torch.device("cpu")
        return value

    lower_args, lower_kwargs = tree_map(lowered, (tuple(args), dict(kwargs)))
    return lower_args, lower_kwargs


def _original(index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The argument of the call with that number among its leaves."""
    return tree_leaves([tuple(args), dict(kwargs)])[index]


def _compare_with_meta(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "Meta"):
        return

    def meta(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    meta_args, meta_kwargs = tree_map(meta, (tuple(args), dict(kwargs)))
    expected = tree_leaves(func(*meta_args, **meta_kwargs))
    for wanted, got in zip(expected, tree_leaves(result), strict=True):
        if isinstance(wanted, torch.Tensor) and (
            wanted.shape != got.shape or wanted.dtype != got.dtype
        ):
            raise AssertionError(
                f"{func.name()}: the reference gives {tuple(got.shape)} {got.dtype}, the Meta "
                f"kernel {tuple(wanted.shape)} {wanted.dtype}"
            )
