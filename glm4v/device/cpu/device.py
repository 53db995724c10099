"""The CPU: the reference for all other devices."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from glm4v.checkpoint.quantized import Matrix, Quantization
from glm4v.device.arbiter import Arbiter, NoArbiter
from glm4v.device.base import (
    Attention,
    Decoder,
    DecoderShape,
    Device,
    LayerWeights,
    VisionLayer,
    VisionLayerWeights,
    VisionShape,
)
from glm4v.device.collectives import Collective, ProcessGroup, init_gloo_group
from glm4v.device.cpu.arbiter import CpuArbiter
from glm4v.device.cpu.attention import CpuAttention
from glm4v.device.cpu.kernels import (
    KernelAttention,
    KernelDecoder,
    KernelLinear,
    Kernels,
    KernelVisionLayer,
    attend_all,
    kv_bytes_per_head,
    open_kernels,
    read_embedding,
)
from glm4v.device.cpu.kernels.variants import fitting, prebuilt
from glm4v.device.cpu.threads import use_threads
from glm4v.device.embedding import Embedding
from glm4v.device.inputs import Int64Array
from glm4v.device.linear import Epilogue, Linear
from glm4v.device.options import (
    DeviceOptions,
    describe_int8,
    parse_dtype,
    parse_quantization,
    parse_weight_dtype,
)
from glm4v.errors import ConfigurationError
from glm4v.host.memory import free_host_memory_bytes

log = logging.getLogger(__name__)


class CpuDevice(Device):
    """The cores of the machine, with as many threads as torch has.

    `kernels` compute in float32; torch computes without them and in other dtypes. `half_weights`
    stores weights in bfloat16 while activations, cache and arithmetic are float32; it needs
    kernels. `quantization` stores the language model's matrices in 8 bits besides, and the
    embeddings of words; `keeps_int8` does so with matrices that the checkpoint has quantized.
    `processes` share the memory of the host.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
        *,
        half_weights: bool = False,
        quantization: Quantization | None = None,
        keeps_int8: bool = False,
        quantized_by: str = "",
        processes: int = 1,
    ) -> None:
        assert kernels is not None or not half_weights, "only kernels compute from bfloat16"
        assert half_weights or quantization is None, "what is not quantized is bfloat16"
        self.name = "cpu"
        self.uses_host_memory = True
        self.torch_device = torch.device("cpu")
        self.dtype = dtype
        self._kernels = kernels if dtype == torch.float32 else None
        self._processes = processes
        self._bits = 16 if half_weights else 32
        self.weight_bytes = 2 if half_weights else dtype.itemsize
        self.quantization = quantization
        self.keeps_int8 = keeps_int8
        self.quantizes_embeddings = quantization is not None
        self.packs_files = self._kernels is not None
        self.has_drafts = self._kernels is not None  # torch attends to such chunks one by one
        self.description = self._describe(
            describe_int8(quantization, quantized_by if keeps_int8 else "")
        )
        if self._kernels is not None:
            self._kernels.set_num_threads(torch.get_num_threads())

    @classmethod
    def open(cls, options: DeviceOptions) -> "CpuDevice":
        """The CPU, with this process's number of threads.

        dtype "auto" is float32. Weight dtype "auto" is that of activations, or bfloat16 if `dtype`
        is "auto" too and the kernels lose nothing by it. Raises ConfigurationError.
        """
        use_threads(options.threads)
        dtype = parse_dtype(options.dtype) or torch.float32
        weight_dtype = parse_weight_dtype(options.weight_dtype)
        quantization = parse_quantization(options.weight_dtype)
        kernels = open_kernels() if dtype == torch.float32 else None
        if weight_dtype is None:
            is_lossless = options.dtype == "auto" and options.is_bfloat16 and kernels is not None
            weight_dtype = torch.bfloat16 if is_lossless else dtype
        half_weights = weight_dtype != dtype
        if half_weights:
            _check_few_bits(dtype, weight_dtype, kernels)
            if not options.is_bfloat16:
                log.warning(
                    "converting weights to bfloat16; the checkpoint is not bfloat16, precision is "
                    "lost"
                )
        return cls(
            dtype,
            kernels,
            half_weights=half_weights,
            quantization=quantization,
            keeps_int8=kernels is not None
            and (options.weight_dtype == "auto" or quantization is not None),
            quantized_by=options.quantized_by,
            processes=options.local_size,
        )

    def kv_bytes_per_token(self, *, layers: int, kv_heads: int, head_dim: int) -> int:
        """The kernels pad values to whole panels."""
        if self._kernels is None:
            return super().kv_bytes_per_token(layers=layers, kv_heads=kv_heads, head_dim=head_dim)
        return layers * kv_heads * kv_bytes_per_head(self._kernels, head_dim)

    def init_group(
        self, address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
    ) -> ProcessGroup:
        """Join a group over gloo."""
        return init_gloo_group(
            address, rank=rank, size=size, timeout_s=timeout_s, join_timeout_s=join_timeout_s
        )

    def arbiter(self, path: Path | None) -> Arbiter:
        """An arbiter over the file `path`; without one, workers do not wait for each other."""
        return NoArbiter() if path is None else CpuArbiter(path)

    def linear(
        self,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        """The product with `weight` [out, in], followed by `epilogue`."""
        if self._kernels is None:
            return super().linear(weight, bias, epilogue=epilogue)
        return KernelLinear(self._kernels, weight, bias, bits=self._bits, epilogue=epilogue)

    def embedding(self, table: Matrix) -> Embedding:
        """Rows of `table`, which is stored in as few bits as matrices."""
        if self._kernels is None:
            return super().embedding(table)
        return read_embedding(self._kernels, table, bits=self._bits)

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder | None:
        """The layers in the kernels, if there are any."""
        if self._kernels is None:
            return None
        return KernelDecoder(self._kernels, layers, shape, collective, bits=self._bits)

    def vision_layer(self, weights: VisionLayerWeights, shape: VisionShape) -> VisionLayer | None:
        """The layer in the kernels, if there are any."""
        if self._kernels is None:
            return None
        return KernelVisionLayer(self._kernels, weights, shape, bits=self._bits)

    def details(self) -> dict[str, str]:
        """The processor's level, and where its kernels come from."""
        level = next((variant.name for variant in fitting()), "below x86-64-v3 and armv8.2-a")
        if self._kernels is None:
            return {"level": level, "kernels": "no kernels"}
        source = "prebuilt" if next(prebuilt(), None) else "compiled on this machine"
        return {"level": level, "kernels": f"kernels {source}"}

    def free_memory_bytes(self) -> int:
        """This process's share of the host memory that is still free."""
        return free_host_memory_bytes() // self._processes

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        if self._kernels is None:
            return CpuAttention(self.dtype)
        return KernelAttention(self._kernels)

    def greedy(self, logits: torch.Tensor) -> Int64Array:
        """By NumPy: torch's argmax takes twenty times as long."""
        rows = logits.float().numpy()
        best = rows.argmax(-1)  # of a row with a NaN: the NaN
        is_finite = np.isfinite(rows[np.arange(len(rows)), best])
        return np.where(is_finite, best, -1)

    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
        if self._kernels is not None:
            return attend_all(self._kernels, qkv)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    def _describe(self, int8: str) -> str:
        name = str(self.dtype).removeprefix("torch.")
        engine = "PyTorch" if self._kernels is None else "native kernels"
        others = "bfloat16" if self._bits == 16 else name
        stored = " and ".join(filter(None, [int8, others]))
        weights = f", weights {stored}" if stored != name else ""
        return f"{name}{weights}, {engine}"


def _check_few_bits(dtype: torch.dtype, weight_dtype: torch.dtype, kernels: Kernels | None) -> None:
    computed, stored = (str(each).removeprefix("torch.") for each in (dtype, weight_dtype))
    if dtype != torch.float32 or weight_dtype not in (torch.bfloat16, torch.int8):
        raise ConfigurationError(
            f"the CPU does not compute in {computed} from weights in {stored}; leave "
            "GLM4V_WEIGHT_DTYPE out, or use float32 with bfloat16 or int8 weights"
        )
    if kernels is None:
        raise ConfigurationError(
            f"weight dtype '{stored}' needs a C++ compiler; install one (apt install g++), or use "
            "float32"
        )
