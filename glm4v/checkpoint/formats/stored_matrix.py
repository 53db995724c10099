"""How a quantized matrix lies in a checkpoint: the tensors it is made of, without reading them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

# dtype and shape of a tensor by its name; None for one that does not exist.
Lookup = Callable[[str], tuple[str, tuple[int, ...]] | None]


class Layout(Enum):
    """Where the integers are. Matrices are [rows, columns], that is [out, in]."""

    # int8 [rows, columns]; scales and offsets [rows, groups].
    PLAIN = "plain"
    # Unsigned, half of their range added, in int32 words along the columns, the first in the lowest
    # bits: [rows, words]. Scales [rows, groups]; offsets, packed likewise along the rows.
    PACKED = "packed"
    # Unsigned, in int32 words along the columns, transposed: [words, rows]. Scales [groups, rows];
    # offsets packed along the rows, [groups, words]; the group of each column, int32 [columns].
    GPTQ = "gptq"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix whose values are (integer - offset) x scale."""

    layout: Layout
    rows: int
    columns: int
    bits: int  # of an integer
    group: int  # columns that share a scale; the last group may be shorter
    values: str  # names of tensors, here and below
    scales: str
    offsets: str | None = None  # None: 0, or half of the range where integers are unsigned
    column_groups: str | None = None
    offset_added: int = 0  # to what is stored as offset
    is_wide: bool = False  # an integer less its offset may need more than 8 bits

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns]."""
        return self.rows, self.columns
