"""The seam between the models and the hardware: a device, and attention in its own layout."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.formats import StoredMatrix
from glm4v.checkpoint.quantized import Matrix, Quantization, as_tensor
from glm4v.checkpoint.tensor_shapes import WORD_EMBEDDINGS
from glm4v.device.arbiter import Arbiter, NoArbiter
from glm4v.device.candidates import Candidates, find_candidates
from glm4v.device.collectives import Collective, ProcessGroup
from glm4v.device.embedding import Embedding, PlainEmbedding
from glm4v.device.inputs import DeviceInputs, Int64Array, StepInputs, upload_at_once
from glm4v.device.linear import Epilogue, Linear, PlainLinear
from glm4v.device.norm import PlainRmsNorm, RmsNorm
from glm4v.host.out_of_memory import is_out_of_memory, out_of_memory_as_overloaded


@dataclass(frozen=True, slots=True)
class AttentionSegment:
    """The tokens of one sequence in a step; each attends to all tokens up to itself."""

    query_len: int  # tokens in this step
    context_len: int  # tokens in the cache before it
    block_table: tuple[int, ...]


class Attention(ABC):
    """Attention of one rank: owns the paged KV cache in the layout its kernels prefer."""

    @abstractmethod
    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache: `blocks` blocks of `block_size` tokens, for every layer."""

    @abstractmethod
    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` tokens of block `source` to another block, in every layer.

        Steps before have been computed; none of the next step has.
        """

    @abstractmethod
    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Compute once what all layers of a step need: slots, masks, lengths."""

    @abstractmethod
    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write the step's keys and values to the cache, then attend.

        query [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim]
        -> [tokens, heads, head_dim]; the segments' tokens follow one another.
        The scale is 1/sqrt(head_dim).
        """


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One rank's part of a decoder layer; matrices are [out, in]."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: Matrix  # [(heads + 2 * kv_heads) * head_dim, hidden]: queries, keys, values
    qkv_bias: torch.Tensor
    out: Matrix  # [hidden, heads * head_dim]
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: Matrix  # [2 * ffn, hidden]: gate, up
    down: Matrix  # [hidden, ffn]


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What all layers of a rank have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    cosine: torch.Tensor  # [positions, rotary pairs]
    sine: torch.Tensor


class Decoder(ABC):
    """One rank's part of the decoder layers."""

    @property
    @abstractmethod
    def layers_done(self) -> int:
        """Layers computed since the start; shows progress within a step, for leases."""

    @abstractmethod
    def run(
        self,
        layers: range,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run consecutive layers: [tokens, hidden] -> the same; may reuse the memory of `hidden`.

        positions [tokens]. `attention` belongs to this device and is prepared for these tokens.
        With indices of tokens, `needed` [count], the result is [count, hidden]: other tokens need
        not pass through the last layer's MLP, but their keys and values are written.
        """


@dataclass(frozen=True, slots=True)
class VisionLayerWeights:
    """A layer of the vision tower; matrices are [out, in]."""

    qkv: Matrix  # [3 * width, width]: queries, keys, values
    qkv_bias: torch.Tensor
    out: Matrix  # [width, width]
    out_bias: torch.Tensor
    attention_norm: torch.Tensor  # [width]
    attention_norm_bias: torch.Tensor
    up: Matrix  # [mlp, width]
    up_bias: torch.Tensor
    down: Matrix  # [width, mlp]
    down_bias: torch.Tensor
    mlp_norm: torch.Tensor  # [width]
    mlp_norm_bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class VisionShape:
    """What all layers of the vision tower have in common."""

    heads: int
    norm_eps: float


class VisionLayer(ABC):
    """Full attention and an MLP with exact GELU, each normalised before the residual is added."""

    @abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> the same."""


class Device(ABC):
    """One accelerator, or the CPU."""

    name: str  # "cpu", "cuda:0", "npu:0"
    torch_device: torch.device
    dtype: torch.dtype  # of activations and cache, and of weights unless `linear` packs them
    description: str  # for people: stored and computed in which dtypes, by which kernels
    weight_bytes: int  # per stored weight that is not a matrix of the language model
    quantization: Quantization | None = None  # how those matrices are quantized, if they are
    keeps_int8: bool = False  # those that the checkpoint has quantized stay so; else dequantized
    quantizes_embeddings: bool = False  # those of words, as matrices are
    subtracts_offsets: bool = False  # its product with 8 bits does; else these are dequantized too
    packs_files: bool = False  # takes matrices that are still in their files
    uses_host_memory: bool = False  # for weights and cache
    scale_bytes: int = 4  # per scale of a quantized matrix
    block_size: int = 16  # tokens per block of the KV cache, unless the settings say otherwise
    # Whether a step may have several tokens of each sequence at little cost. It may not where
    # decode steps are captured as graphs of one token.
    has_drafts: bool = False

    def details(self) -> dict[str, str]:
        """Versions and abilities for `glm4v doctor`, one short text each."""
        return {}

    def language_bytes(self, checkpoint: Checkpoint) -> int:
        """Bytes that the language model's weights take, on all ranks together."""
        return self.bytes_of_a_step(checkpoint) + self._embedding_bytes(checkpoint)

    def bytes_of_a_step(self, checkpoint: Checkpoint) -> int:
        """Those that every step reads: all but the embeddings of words, which are looked up."""
        matrices = checkpoint.matrices()
        others = checkpoint.values(vision=False) - sum(map(math.prod, matrices.values()))
        others -= math.prod(checkpoint.shape(WORD_EMBEDDINGS))
        return others * self.weight_bytes + sum(
            self._matrix_bytes(shape, checkpoint.quantized.get(name))
            for name, shape in matrices.items()
        )

    def _embedding_bytes(self, checkpoint: Checkpoint) -> int:
        rows, columns = checkpoint.shape(WORD_EMBEDDINGS)
        if self.quantizes_embeddings:
            return self._matrix_bytes((rows, columns), checkpoint.quantized.get(WORD_EMBEDDINGS))
        return rows * columns * self.weight_bytes

    def _matrix_bytes(self, shape: tuple[int, int], stored: StoredMatrix | None) -> int:
        """Those of a matrix [rows, columns] that the language model multiplies with."""
        rows, columns = shape
        if stored is not None:
            is_kept = self.keeps_int8 and (self.subtracts_offsets or not stored.is_wide)
            group = stored.group if is_kept else None
        else:
            group = self.quantization.group_of(columns) if self.quantization else None
        if group is None:
            return rows * columns * self.weight_bytes
        return rows * (columns + self.scale_bytes * -(-columns // group))

    @abstractmethod
    def free_memory_bytes(self) -> int:
        """Memory that is free for weights and cache."""

    def kv_bytes_per_token(self, *, layers: int, kv_heads: int, head_dim: int) -> int:
        """Bytes that one token takes in the cache of `paged_attention`, padding included."""
        return 2 * layers * kv_heads * head_dim * self.dtype.itemsize

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether this device or the host ran out of memory."""
        return is_out_of_memory(error)

    @contextmanager
    def errors(self, no_memory: str) -> Iterator[None]:
        """Raise Overloaded(no_memory) for errors inside that mean out of memory.

        Raise DeviceFailed for those that mean the device is lost; the process should end.
        """
        with out_of_memory_as_overloaded(no_memory, self.is_out_of_memory):
            yield

    @abstractmethod
    def init_group(
        self, address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
    ) -> ProcessGroup:
        """Join a tensor-parallel group as `ProcessGroup` describes, over this device's backend.

        A "file:" address means that all ranks are on this host.
        """

    def arbiter(self, path: Path | None) -> Arbiter:
        """What workers on this hardware take turns by; `path` is a file that they share, if any."""
        return NoArbiter()

    def linear(
        self,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        """The product with `weight` [out, in] in `dtype` or 8 bits, followed by `epilogue`.

        Takes ownership of the weight. With "silu_gate" its first half of rows is the gate.
        """
        return PlainLinear(as_tensor(weight, self.dtype), bias, epilogue=epilogue)

    def rms_norm(self, weight: torch.Tensor, eps: float) -> RmsNorm:
        """The norm with `weight` [hidden]."""
        return PlainRmsNorm(weight, eps)

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder | None:
        """The device's own decoder layers; None to run them one by one in torch."""
        return None

    def vision_layer(self, weights: VisionLayerWeights, shape: VisionShape) -> VisionLayer | None:
        """The device's own layer of the vision tower; None to run it in torch."""
        return None

    def capture(self, decoder: Decoder) -> Decoder:
        """`decoder`, which runs layers one by one in torch, sped up where the device can."""
        return decoder

    def embedding(self, table: Matrix) -> Embedding:
        """Rows of `table` by their numbers; takes ownership of it."""
        return PlainEmbedding(as_tensor(table, self.dtype))

    def upload(self, inputs: StepInputs) -> DeviceInputs:
        """Move a step's integers to the device, in one transfer.

        A device that captures graphs may give the same memory in every step.
        """
        return upload_at_once(inputs, self.torch_device)

    @abstractmethod
    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""

    def greedy(self, logits: torch.Tensor) -> Int64Array:
        """The best token of each row of `logits` [rows, vocabulary], on the host.

        -1 for rows with a NaN, or whose best value is infinite.
        """
        best = logits.argmax(dim=-1, keepdim=True)  # of a row with a NaN: the NaN
        is_finite = logits.gather(1, best).isfinite()
        ids: Int64Array = best.masked_fill(~is_finite, -1).flatten().cpu().numpy()
        return ids

    def candidates(self, logits: torch.Tensor, temperatures: list[float], count: int) -> Candidates:
        """What random sampling needs of `logits`, as `find_candidates` describes."""
        return find_candidates(logits, temperatures, count)

    @abstractmethod
    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attention of every token to every token, for the vision tower.

        [batch, tokens, 3, heads, head_dim], queries, keys and values -> [batch, tokens, heads,
        head_dim]. The scale is 1/sqrt(head_dim).
        """
