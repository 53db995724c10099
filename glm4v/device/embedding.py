"""Tables whose rows are looked up: the embeddings of words."""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional


class Embedding(ABC):
    """A table [rows, width] that never changes."""

    @abstractmethod
    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows by their ids, [tokens] -> [tokens, width], in the dtype that the table is stored in.

        float32 where it is stored in 8 bits.
        """


class PlainEmbedding(Embedding):
    """torch's own lookup, for every device and dtype."""

    def __init__(self, table: torch.Tensor) -> None:
        self._table = table

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """[tokens] -> [tokens, width]."""
        return functional.embedding(ids, self._table)
