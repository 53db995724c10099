"""One NPU: a 910B, or one of the two dies of a 300I Duo."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch_npu

from glm4v.checkpoint.quantized import Matrix, Quantization, QuantizedWeight, as_tensor
from glm4v.device.base import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective, ProcessGroup
from glm4v.device.linear import Epilogue, Linear
from glm4v.device.norm import RmsNorm
from glm4v.device.npu.attention import FusedAttention
from glm4v.device.npu.chip import (
    BLOCK_SIZE,
    HEAD_DIM,
    Chip,
    check_group,
    chip_of,
    choose_dtype,
)
from glm4v.device.npu.decoder import NpuDecoder
from glm4v.device.npu.environment import hccl_buffer_bytes
from glm4v.device.npu.failures import device_failure, first_line, is_out_of_memory
from glm4v.device.npu.full_attention import attend_all_atb, attend_all_fused
from glm4v.device.npu.int8_product import Int8Product
from glm4v.device.npu.linear import HalfProduct, NpuLinear, Product
from glm4v.device.npu.norm import NpuRmsNorm
from glm4v.device.npu.nz_attention import NzAttention
from glm4v.device.options import (
    DeviceOptions,
    describe_int8,
    parse_dtype,
    parse_quantization,
    parse_weight_dtype,
)
from glm4v.errors import ConfigurationError, DeviceFailed


class NpuDevice(Device):
    """The NPU with number `index` among the visible ones; this process uses no other.

    `group_size` ranks form its tensor-parallel group. `quantization` stores the language model's
    matrices in 8 bits, with scales in `dtype`; `keeps_int8` does so with those that the checkpoint
    has quantized.
    """

    scale_bytes = 2

    def __init__(
        self,
        chip: Chip,
        index: int,
        dtype: torch.dtype,
        *,
        group_size: int,
        quantization: Quantization | None = None,
        keeps_int8: bool = False,
        quantized_by: str = "",
    ) -> None:
        self.name = f"npu:{index}"
        self.torch_device = torch.device(self.name)
        self.dtype = dtype
        self.weight_bytes = dtype.itemsize
        self.block_size = BLOCK_SIZE
        self.quantization = quantization
        self.keeps_int8 = keeps_int8
        self.subtracts_offsets = True
        self.description = f"{chip.soc}, {str(dtype).removeprefix('torch.')}"
        if int8 := describe_int8(quantization, quantized_by if keeps_int8 else ""):
            self.description += f", weights {int8}"
        self._chip = chip
        self._group_size = group_size

    @classmethod
    def open(cls, options: DeviceOptions) -> "NpuDevice":
        """This rank's NPU, made the process's own; raises ConfigurationError."""
        index = _visible_index(options)
        chip = chip_of(torch_npu.npu.get_device_name(index))
        asked, weights = parse_dtype(options.dtype), parse_weight_dtype(options.weight_dtype)
        dtype = choose_dtype(chip, asked, is_bfloat16=options.is_bfloat16)
        quantization = parse_quantization(options.weight_dtype)
        if quantization is not None:
            check_group(chip, quantization.group, "set GLM4V_WEIGHT_DTYPE=int8-channel")
        elif weights not in (None, dtype):
            raise ConfigurationError(
                "the NPU stores weights in the dtype it computes in or in 8 bits, "
                f"{options.weight_dtype} was asked for; leave GLM4V_WEIGHT_DTYPE out"
            )
        # Without it a cast to NZ would be ignored.
        torch_npu.npu.config.allow_internal_format = chip.is_310p
        return cls(
            chip,
            index,
            dtype,
            group_size=options.group_size,
            quantization=quantization,
            keeps_int8=weights is None or quantization is not None,
            quantized_by=options.quantized_by,
        )

    def free_memory_bytes(self) -> int:
        """Free memory of the NPU, less what HCCL will take for a group."""
        free: int = torch_npu.npu.mem_get_info(self.torch_device)[0]
        return free - (hccl_buffer_bytes(os.environ) if self._group_size > 1 else 0)

    def kv_bytes_per_token(self, *, layers: int, kv_heads: int, head_dim: int) -> int:
        """Bytes of one token in the cache, whose heads have 128 values each."""
        return super().kv_bytes_per_token(layers=layers, kv_heads=kv_heads, head_dim=HEAD_DIM)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Also where CANN itself found no memory, for HCCL or an operator's workspace."""
        return super().is_out_of_memory(error) or is_out_of_memory(error)

    @contextmanager
    def errors(self, no_memory: str) -> Iterator[None]:
        """Overloaded(no_memory) out of memory; DeviceFailed when the NPU or HCCL failed."""
        with super().errors(no_memory):
            try:
                yield
            except RuntimeError as error:
                if (reason := device_failure(error)) is None:
                    raise
                raise DeviceFailed(f"{self.name} failed: {reason}") from error

    def init_group(
        self, address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
    ) -> ProcessGroup:
        """Join a group over HCCL."""
        return ProcessGroup(
            "hccl",
            address,
            rank=rank,
            size=size,
            timeout_s=timeout_s,
            join_timeout_s=join_timeout_s,
        )

    def linear(
        self,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        """The product with `weight` [out, in], followed by `epilogue`."""
        is_310p = self._chip.is_310p
        product: Product
        if isinstance(weight, QuantizedWeight):
            product = Int8Product(
                weight, bias, dtype=self.dtype, device=self.torch_device, chip=self._chip
            )
        else:
            product = HalfProduct(as_tensor(weight, self.dtype), bias, is_310p=is_310p)
        return NpuLinear(product, epilogue=epilogue, is_310p=is_310p)

    def rms_norm(self, weight: torch.Tensor, eps: float) -> RmsNorm:
        """The norm with `weight` [hidden], one fused operator."""
        return NpuRmsNorm(weight, eps)

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder:
        """The layers in fused operators, decode steps in graphs on the 910B."""
        graphs = not self._chip.is_310p
        return NpuDecoder(layers, shape, self, collective, graphs=graphs)

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        kind = NzAttention if self._chip.is_310p else FusedAttention
        return kind(self.dtype, self.torch_device)

    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
        return attend_all_atb(qkv) if self._chip.is_310p else attend_all_fused(qkv)


def _visible_index(options: DeviceOptions) -> int:
    """This rank's device, made current; raises ConfigurationError when there are too few."""
    count = torch_npu.npu.device_count()
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    among = "" if visible is None else f" with ASCEND_RT_VISIBLE_DEVICES={visible}"
    if count == 0:
        raise ConfigurationError(
            f"no NPU is visible{among}; look with npu-smi info, and at the container's devices"
        )
    if options.local_size > count:
        raise ConfigurationError(
            f"{options.local_size} ranks need an NPU each, {count} are visible{among}; a 300I Duo "
            "card has two"
        )
    try:
        torch_npu.npu.set_device(options.local_rank)
    except RuntimeError as error:
        raise ConfigurationError(
            f"NPU {options.local_rank} does not start: {first_line(error)}"
        ) from error
    return options.local_rank
