"""Which rows begin answers, from the owners of their targets (see `turns`)."""

import torch
from torch.nn import functional

from recipes.demo_model.turns import IGNORED


def begin(owners: torch.Tensor) -> torch.Tensor:
    """The first two rows of each answer, that of <|assistant|> and that of its newline: a mask."""
    return (owners != IGNORED) & (owners != _before(owners, 2))


def say_first_word(owners: torch.Tensor) -> torch.Tensor:
    """The second of them, whose target is the answer's first word: a mask."""
    return begin(owners) & (owners == _before(owners, 1))


def _before(owners: torch.Tensor, rows: int) -> torch.Tensor:
    return functional.pad(owners, (rows, 0), value=IGNORED)[:, :-rows]
