"""ctypes bindings of the compiled kernels; source/library.cpp is the other side."""

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p
from typing import Any, cast

import torch

from glm4v.device.cpu.kernels.loading import load_library
from glm4v.errors import Unavailable

log = logging.getLogger(__name__)


class Weight(ctypes.Structure):
    """gemm.h"""

    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("group", c_int64),
        ("lead", c_int64),
        ("bits", c_int32),
        ("epilogue", c_int32),
    )


class RowSpan(ctypes.Structure):
    """matrix_source.h"""

    _fields_ = (
        ("memory", c_void_p),
        ("offset", c_int64),
        ("stride", c_int64),
        ("rows", c_int64),
        ("file", c_int32),
    )


class MatrixSource(ctypes.Structure):
    """matrix_source.h"""

    _fields_ = (
        ("spans", c_void_p),
        ("span_count", c_int64),
        ("columns", c_int64),
        ("skipped", c_int64),
        ("group", c_int64),
        ("dtype", c_int32),
    )


class KvCache(ctypes.Structure):
    """attention.h"""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("slots", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("value_stride", c_int64),
    )


class Segment(ctypes.Structure):
    """attention.h"""

    _fields_ = (("query_len", c_int64), ("context_len", c_int64), ("table_offset", c_int64))


class AttentionMetadata(ctypes.Structure):
    """attention.h"""

    _fields_ = (
        ("num_tokens", c_int64),
        ("block_size", c_int64),
        ("num_segments", c_int64),
        ("segments", c_void_p),
        ("block_tables", c_void_p),
        ("positions", c_void_p),
    )


class DecoderLayer(ctypes.Structure):
    """decoder.h"""

    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qkv", Weight),
        ("out", Weight),
        ("gate_up", Weight),
        ("down", Weight),
    )


class DecoderModel(ctypes.Structure):
    """decoder.h"""

    _fields_ = (
        ("layers", c_void_p),
        ("query_heads", c_int64),
        ("norm_eps", c_float),
        ("adds_residual", c_int32),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("pairs", c_int64),
    )


class LayerNorm(ctypes.Structure):
    """vision.h"""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float))


class VisionLayer(ctypes.Structure):
    """vision.h"""

    _fields_ = (
        ("attention_norm", LayerNorm),
        ("mlp_norm", LayerNorm),
        ("qkv", Weight),
        ("out", Weight),
        ("up", Weight),
        ("down", Weight),
        ("heads", c_int64),
    )


class Int8Table(ctypes.Structure):
    """embedding.h"""

    _fields_ = (
        ("integers", c_void_p),
        ("scales", c_void_p),
        ("columns", c_int64),
        ("group", c_int64),
    )


# In the order of glm4v_structure_bytes in library.cpp.
_STRUCTURES = (
    Weight,
    RowSpan,
    MatrixSource,
    KvCache,
    Segment,
    AttentionMetadata,
    DecoderLayer,
    DecoderModel,
    VisionLayer,
    Int8Table,
)

# Outcome in library.cpp; 0 is DONE, and errors of the system are negative.
_NO_MEMORY, _FILE_ENDED, _NOT_FINITE = 1, 3, 4


class Kernels:
    """The loaded library. Calls release the GIL and share one thread pool.

    Raises Unavailable for a library whose structures differ from those of this module.
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
        self.set_num_threads = function("set_num_threads", None, c_int)
        self.panel_count = function("panel_count", c_int64, pointer)
        self.group_count = function("group_count", c_int64, pointer)
        self.pack = work("pack", pointer, pointer, pointer, pointer)
        self.read_table = work("read_table", pointer, c_int64, c_int, pointer)
        self.quantize_table = work("quantize_table", pointer, c_int64, pointer, pointer)
        self.look_up = work("look_up", pointer, c_int64, pointer, pointer)
        self.pack_floats = work("pack_floats", pointer, pointer, c_int64, pointer)
        self.gemm = work("gemm", pointer, c_int64, pointer, pointer)
        self.attend = work("attend", pointer, c_int64, pointer, c_int64, pointer, pointer)
        self.attend_all = work("attend_all", c_int64, c_int64, c_int64, pointer, pointer)
        self.run_vision_layer = work("run_vision_layer", pointer, c_int64, pointer, pointer)
        self.run_sublayers = work(
            "run_sublayers", pointer, pointer, pointer, c_int64, c_int64, pointer, pointer
        )
        self.lanes: int = function("lanes", c_int)()  # float32 values of a vector
        self.nr: int = 2 * self.lanes  # columns of a panel


def check_floats(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError for anything but float32 of this shape on the host: kernels do not check."""
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(
            f"{name}: expected float32 {list(shape)} on the CPU, got {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}"
        )


def _check_structures(library: ctypes.CDLL) -> None:
    ours = [ctypes.sizeof(structure) for structure in _STRUCTURES]
    try:
        theirs = list((c_int64 * len(ours)).in_dll(library, "glm4v_structure_bytes"))
    except ValueError:
        theirs = []
    if ours != theirs:
        raise Unavailable(
            f"kernels of another version: structure sizes are {theirs}, expected {ours}"
        )


def _check_outcome(outcome: int, function: Any, arguments: Any) -> None:
    if outcome == _NO_MEMORY:
        raise MemoryError("the CPU kernels ran out of memory")
    if outcome == _FILE_ENDED:
        raise EOFError("the file is truncated")
    if outcome == _NOT_FINITE:
        raise ValueError("NaN or infinite values")
    if outcome < 0:
        raise OSError(-outcome, os.strerror(-outcome))
    if outcome:
        raise RuntimeError(f"{function.__name__} failed")


@functools.cache
def open_kernels() -> Kernels | None:
    """The kernels of this process; None, with a warning in the log, where none can be loaded."""
    try:
        return Kernels(load_library())
    except Unavailable as error:
        log.warning("native CPU kernels unavailable, using PyTorch (slower): %s", error)
        return None
