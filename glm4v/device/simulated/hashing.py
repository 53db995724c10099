"""Hashes of tokens and of their prefixes, equal on every machine."""

import numpy as np
import numpy.typing as npt
import torch

UInt64Array = npt.NDArray[np.uint64]

COLUMNS = 32  # of a row or a weight that stand for all of it
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment


def mix(values: UInt64Array) -> UInt64Array:
    """SplitMix64's output function, of each value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def numbered(values: UInt64Array) -> UInt64Array:
    """Hashes of [..., n] values that depend on their place in the last dimension too."""
    places = np.arange(1, values.shape[-1] + 1, dtype=np.uint64) * _GOLDEN
    return mix(values + places)


def row_hashes(rows: torch.Tensor) -> UInt64Array:
    """A hash for each of the rows [n, width]."""
    bits = rows[:, :COLUMNS].float().contiguous().numpy().view(np.uint32).astype(np.uint64)
    hashes: UInt64Array = numbered(bits).sum(axis=-1, dtype=np.uint64)
    return mix(hashes)


def prefix_hashes(tokens: UInt64Array) -> UInt64Array:
    """For each of the hashed tokens [n] of a sequence, a hash of it and all tokens before it."""
    sums: UInt64Array = np.cumsum(numbered(tokens), dtype=np.uint64)
    return mix(sums)


def signs(hashes: UInt64Array, columns: int) -> torch.Tensor:
    """The lowest bits of each hash as 1 or -1, [n, columns]."""
    bits = (hashes[:, None] >> np.arange(columns, dtype=np.uint64)) & np.uint64(1)
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float32))
