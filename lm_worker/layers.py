"""The layers of the language model, each reading only its own rank's part of its weights.

Sharding, with R ranks: query heads and the MLP are split R ways, the word table and the head by
vocabulary rows. A rank has the kv heads its query heads use; beyond as many ranks as there are kv
heads, ranks share copies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from glm4v.device import Device
from glm4v.device.collectives import Collective
from glm4v.errors import InvalidRequest
from glm4v.model_spec import ModelSpec
from glm4v.weights import Weights


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the model a rank computes."""

    rank: int
    size: int

    def span(self, total: int) -> tuple[int, int]:
        """This rank's range [start, end) of `total` things."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def check(self, spec: ModelSpec) -> None:
        """Raise InvalidRequest when the model does not divide into as many parts."""
        for name, count in (
            ("attention heads", spec.heads),
            ("MLP rows", spec.ffn_size),
            ("vocabulary rows", spec.vocab_size),
        ):
            if count % self.size:
                raise InvalidRequest(
                    f"{count} {name} do not divide into {self.size} ranks; use fewer ranks"
                )
        if spec.kv_heads % self.size and self.size % spec.kv_heads:
            raise InvalidRequest(
                f"{spec.kv_heads} key/value heads and {self.size} ranks: "
                "one must divide the other; use another number of ranks"
            )

    def heads(self, spec: ModelSpec) -> tuple[int, int]:
        """This rank's query heads [start, end)."""
        return self.span(spec.heads)

    def kv_heads(self, spec: ModelSpec) -> tuple[int, int]:
        """This rank's key/value heads [start, end); at least one, shared when there are few."""
        start = spec.kv_heads * self.rank // self.size
        return start, start + max(1, spec.kv_heads // self.size)


class ColumnParallel:
    """A product whose output columns are split; `sections` are this rank's weight rows.

    A fused weight (query, key and value; gate and up) has one range for each of its sections:
    a contiguous part of the whole would mix them.
    """

    def __init__(
        self,
        weights: Weights,
        name: str,
        sections: Sequence[tuple[int, int]],
        device: Device,
        *,
        bias: bool,
    ) -> None:
        self._linear = device.linear(
            weights.read(name + ".weight", rows=sections),
            weights.read(name + ".bias", rows=sections) if bias else None,
        )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, in] -> [rows, this rank's out]."""
        return self._linear(rows)


class RowParallel:
    """A product whose inputs are split; the ranks' results are summed."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        columns: tuple[int, int],
        device: Device,
        collective: Collective,
    ) -> None:
        self._linear = device.linear(weights.read(name + ".weight", columns=columns))
        self._collective = collective

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, this rank's in] -> [rows, out]."""
        return self._collective.all_reduce(self._linear(rows))


class VocabParallelEmbedding:
    """The word table; a rank knows the ids of its rows, the sum knows all."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        span: tuple[int, int],
        device: Device,
        collective: Collective,
    ) -> None:
        self._start, self._end = span
        self._table = device.table(weights.read(name, rows=[span]))
        self._dtype = device.dtype
        self._collective = collective

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """[rows] -> [rows, hidden]."""
        foreign = (ids < self._start) | (ids >= self._end)
        own = (ids - self._start).masked_fill(foreign, 0)
        hidden = functional.embedding(own, self._table).masked_fill(foreign[:, None], 0)
        return self._collective.all_reduce(hidden.to(self._dtype))


class VocabParallelHead:
    """Scores of the whole vocabulary, joined from the ranks' parts."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        span: tuple[int, int],
        device: Device,
        collective: Collective,
    ) -> None:
        self._linear = device.linear(weights.read(name, rows=[span]))
        self._collective = collective

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary]."""
        return self._collective.all_gather(self._linear(rows), dim=-1)


class RmsNorm:
    """x / rms(x) * weight, in single precision up to the last step.

    The weight is multiplied before rounding to the model's dtype, as modeling_chatglm.py does. With
    n columns, rms(x) = sqrt(|x|^2 / n + eps) = hypot(|x|, sqrt(n eps)) / sqrt(n): four operations
    on the device where torch's own norm takes seven.
    """

    def __init__(self, weights: Weights, name: str, eps: float) -> None:
        weight = weights.read(name + ".weight").float()
        self._scaled = weight * math.sqrt(len(weight))
        self._least = torch.tensor(math.sqrt(len(weight) * eps), device=weight.device)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        exact = rows.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        return (exact / torch.hypot(length, self._least) * self._scaled).to(rows.dtype)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of a step's rows, [rows, 1, pairs] each."""

    cosine: torch.Tensor
    sine: torch.Tensor
    turn: torch.Tensor | None = None  # both as complex numbers, where one product does it all

    def apply(self, heads: torch.Tensor) -> None:
        """Rotate the leading dimensions of `heads` [rows, heads, head_dim] in place.

        Neighbours are pairs: (a, b) -> (a cos - b sin, b cos + a sin).
        """
        turned = heads[..., : 2 * self.cosine.shape[-1]]
        if self.turn is not None:
            torch.view_as_complex(turned.view(*turned.shape[:-1], -1, 2)).mul_(self.turn)
            return
        even, odd = turned[..., 0::2], turned[..., 1::2]
        new_even = even * self.cosine - odd * self.sine
        new_odd = odd * self.cosine + even * self.sine
        even.copy_(new_even)
        odd.copy_(new_odd)


class RotaryTable:
    """Angles of every position: position / base^(2i / rotary_dim), in single precision.

    Rounded to the model's dtype as modeling_chatglm.py does.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        pairs = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32) / spec.rotary_dim
        positions = torch.arange(spec.context_tokens, dtype=torch.float32)
        angles = torch.outer(positions, 1.0 / spec.rope_base**pairs)
        self._cosine = angles.cos().to(device, dtype)
        self._sine = angles.sin().to(device, dtype)

    def at(self, positions: torch.Tensor) -> Rotation:
        """The rotation of rows at `positions` [rows]."""
        cosine, sine = self._cosine[positions][:, None], self._sine[positions][:, None]
        # Eight small operations a layer become one; other dtypes have no complex partner.
        is_single = cosine.dtype == torch.float32 and cosine.device.type == "cpu"
        return Rotation(cosine, sine, torch.complex(cosine, sine) if is_single else None)
