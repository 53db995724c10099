"""The compiled kernels as Python calls them; source/library.cpp has the other side."""

import ctypes
import functools
import logging
from collections.abc import Callable
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p
from typing import Any, cast

import torch

from glm4v.device.cpu.kernels.loading import load_library
from glm4v.errors import Unavailable

log = logging.getLogger(__name__)

_LINE_BYTES = 64
_LARGE_PAGE_BYTES = 2 * 2**20


class Weight(ctypes.Structure):
    """product.h"""

    _fields_ = (
        ("columns", c_int64),
        ("inputs", c_int64),
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("bits", c_int32),
        ("then", c_int32),
    )


class Cache(ctypes.Structure):
    """attention.h"""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("slots", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("width", c_int64),
    )


class Segment(ctypes.Structure):
    """attention.h"""

    _fields_ = (("rows", c_int64), ("context_len", c_int64), ("first_block", c_int64))


class Step(ctypes.Structure):
    """attention.h"""

    _fields_ = (
        ("rows", c_int64),
        ("block_size", c_int64),
        ("segment_count", c_int64),
        ("segments", c_void_p),
        ("blocks", c_void_p),
        ("positions", c_void_p),
    )


class Layer(ctypes.Structure):
    """decoder.h"""

    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qkv", Weight),
        ("out", Weight),
        ("gate_up", Weight),
        ("down", Weight),
    )


class Model(ctypes.Structure):
    """decoder.h"""

    _fields_ = (
        ("layers", c_void_p),
        ("query_heads", c_int64),
        ("eps", c_float),
        ("adds_residual", c_int32),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("pairs", c_int64),
    )


# In the order of glm4v_structure_bytes in library.cpp.
_STRUCTURES = (Weight, Cache, Segment, Step, Layer, Model)

_NO_MEMORY = 1  # Outcome in library.cpp; 0 is done


class Kernels:
    """The library. Its calls let other Python threads run, and share one team of threads.

    Raises Unavailable for a library whose structures are not those of this module.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        _check_structures(library)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, f"glm4v_{name}")
            found.restype, found.argtypes = result, arguments
            return found

        def work(name: str, *arguments: Any) -> Callable[..., None]:
            found = function(name, c_int, *arguments)
            found.errcheck = _check_outcome
            return cast(Callable[..., None], found)

        pointer = c_void_p
        self.set_threads = function("set_threads", None, c_int)
        self.panels = function("panels", c_int64, pointer)
        self.pack = work("pack", pointer, pointer, pointer)
        self.pack_bias = work("pack_bias", pointer, pointer, pointer)
        self.product = work("product", pointer, c_int64, pointer, pointer)
        self.attend = work("attend", pointer, c_int64, pointer, c_int64, pointer, pointer)
        self.attend_all = work("attend_all", c_int64, c_int64, c_int64, pointer, pointer)
        self.run_sublayers = work(
            "run_sublayers", pointer, pointer, pointer, c_int64, c_int64, pointer, pointer
        )
        self._prefer_large_pages = function("prefer_large_pages", None, pointer, c_int64)
        self.lanes: int = function("lanes", c_int)()  # float32 values of a vector
        self.panel = 2 * self.lanes

    def memory(self, count: int) -> torch.Tensor:
        """`count` bytes that begin where a line of the cache does, or a large page."""
        is_large = count >= _LARGE_PAGE_BYTES // 2
        unit = _LARGE_PAGE_BYTES if is_large else _LINE_BYTES
        whole = torch.empty(-(-count // unit) * unit + unit, dtype=torch.uint8)
        start = -whole.data_ptr() % unit
        if is_large:
            self._prefer_large_pages(whole.data_ptr() + start, len(whole) - unit)
        return whole[start : start + count]


def check_floats(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError for anything but float32 of this shape on the host: kernels read and write
    without looking.
    """
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} {list(tensor.shape)} {tensor.dtype} on {tensor.device}; float32 "
            f"{list(shape)} on the host is needed"
        )


def _check_structures(library: ctypes.CDLL) -> None:
    ours = [ctypes.sizeof(structure) for structure in _STRUCTURES]
    try:
        theirs = list((c_int64 * len(ours)).in_dll(library, "glm4v_structure_bytes"))
    except ValueError:
        theirs = []
    if ours != theirs:
        raise Unavailable(f"kernels of another version: structures of {theirs} bytes, not {ours}")


def _check_outcome(outcome: int, function: Any, arguments: Any) -> None:
    if outcome == _NO_MEMORY:
        raise MemoryError("the kernels have not enough memory")
    if outcome:
        raise RuntimeError(f"{function.__name__} failed")


@functools.cache
def open_kernels() -> Kernels | None:
    """The kernels of this process; None, and a line in the log, where they cannot be had."""
    try:
        return Kernels(load_library())
    except Unavailable as error:
        log.warning("torch's own arithmetic runs, which is slower: %s", error)
        return None
