"""One GPU; its operators are those of PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.nn import functional

from glm4v.device.base import Attention, Decoder, Device
from glm4v.device.collectives import ProcessGroup
from glm4v.device.cuda.attention import CudaAttention
from glm4v.device.cuda.captured_decoder import CapturedDecoder
from glm4v.device.cuda.graph import CudaGraphs, RepeatedCalls
from glm4v.device.cuda.presence import has_gpu
from glm4v.device.options import DeviceOptions, parse_dtype, parse_weight_dtype
from glm4v.errors import ConfigurationError, DeviceFailed

_ALSO_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "NCCL Error 1: unhandled cuda error: out of memory")


class CudaDevice(Device):
    """The GPU `torch_device`; with the CPU in its place the same code runs without graphs."""

    def __init__(self, torch_device: torch.device, dtype: torch.dtype) -> None:
        self.name = str(torch_device)
        self.torch_device = torch_device
        self.dtype = dtype
        self.weight_bytes = dtype.itemsize
        self.description = f"{str(dtype).removeprefix('torch.')}, PyTorch with CUDA graphs"

    @classmethod
    def open(cls, options: DeviceOptions) -> "CudaDevice":
        """This rank's GPU, made the process's own; raises ConfigurationError.

        dtype "auto" is bfloat16 for a bfloat16 checkpoint if the GPU computes in it, else float16.
        """
        index = _visible_index(options)
        torch.cuda.set_device(index)
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = choose_dtype(options, has_bfloat16=has_bfloat16)
        _compute_exactly()
        return cls(torch.device("cuda", index), dtype)

    def details(self) -> dict[str, str]:
        """The GPU, and what PyTorch was built with."""
        nccl = "with NCCL" if dist.is_nccl_available() else "without NCCL"
        gpu = torch.cuda.get_device_name(self.torch_device)
        return {"gpu": gpu, "build": f"PyTorch for CUDA {torch.version.cuda}, {nccl}"}

    def free_memory_bytes(self) -> int:
        """Memory of the GPU that no process has taken."""
        return torch.cuda.mem_get_info(self.torch_device)[0]

    def is_out_of_memory(self, error: Exception) -> bool:
        """Also errors of the libraries, which have no type of their own."""
        return super().is_out_of_memory(error) or any(text in str(error) for text in _ALSO_MEMORY)

    @contextmanager
    def errors(self, no_memory: str) -> Iterator[None]:
        """Overloaded(no_memory) out of memory; DeviceFailed for errors of CUDA and its libraries.

        After most of these no call to the GPU succeeds in this process.
        """
        with super().errors(no_memory):
            try:
                yield
            except RuntimeError as error:
                if self.is_out_of_memory(error) or not _is_of_cuda(error):
                    raise
                reason = str(error).partition("\n")[0]  # the other lines advise developers
                raise DeviceFailed(f"{self.name} failed: {reason}") from error

    def init_group(
        self, address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
    ) -> ProcessGroup:
        """Join a group over NCCL."""
        return ProcessGroup(
            "nccl",
            address,
            rank=rank,
            size=size,
            timeout_s=timeout_s,
            join_timeout_s=join_timeout_s,
        )

    def capture(self, decoder: Decoder) -> Decoder:
        """`decoder` with its decode steps recorded in graphs."""
        if self.torch_device.type == "cuda":
            return CapturedDecoder(decoder, CudaGraphs(self.torch_device).record)
        return CapturedDecoder(decoder, RepeatedCalls)

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        return CudaAttention(self.dtype, self.torch_device)

    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def choose_dtype(options: DeviceOptions, *, has_bfloat16: bool) -> torch.dtype:
    """The dtype of weights, activations and cache; raises ConfigurationError."""
    dtype, weights = parse_dtype(options.dtype), parse_weight_dtype(options.weight_dtype)
    if dtype is None:
        dtype = torch.bfloat16 if options.is_bfloat16 and has_bfloat16 else torch.float16
    elif dtype == torch.bfloat16 and not has_bfloat16:
        raise ConfigurationError("this GPU has no bfloat16; use GLM4V_DTYPE=float16")
    if weights not in (None, dtype):
        raise ConfigurationError(
            f"a GPU stores weights in the dtype it computes in, {options.weight_dtype} was asked "
            "for; leave GLM4V_WEIGHT_DTYPE out"
        )
    return dtype


def _is_of_cuda(error: RuntimeError) -> bool:
    return isinstance(error, torch.AcceleratorError) or str(error).startswith("CUDA error: ")


def _compute_exactly() -> None:
    """Sum products in single precision, and multiply float32 as such."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _visible_index(options: DeviceOptions) -> int:
    """The GPU of this rank; raises ConfigurationError when there are too few."""
    if not has_gpu():
        reason = "has no GPU" if torch.version.cuda else "is built without CUDA"
        raise ConfigurationError(
            f"PyTorch {torch.__version__} {reason}; `glm4v doctor` says what is missing"
        )
    count = torch.cuda.device_count()
    if options.local_size > count:
        raise ConfigurationError(
            f"{options.local_size} ranks need a GPU each, {count} are visible "
            "(CUDA_VISIBLE_DEVICES chooses)"
        )
    return options.local_rank
