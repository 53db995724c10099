"""Heads that only training needs: what a place of a picture shows, in which colour, and where.

Answers alone teach a tower slowly: one look at a picture is one word learnt. These teach it at
every place, and that a place has to say all that a question may ask for.
"""

import torch
from torch.nn import functional

from recipes.demo_model.labels import KINDS
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.scores import Scores

_CHARACTERS_COUNT = 4.0  # against other kinds: they are small and hard to tell
_ANCHORS_COUNT = 8.0  # against places that are none, which are many

Labels = torch.Tensor  # [batch, places, 3]: kind, colour or -1, anchor or not (see `labels`)


class Heads(torch.nn.Module):
    """Of places in a square of `grid` x `grid`, each a vector of `width`."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.kinds = torch.nn.Linear(width, len(KINDS))
        self.colours = torch.nn.Linear(width, len(COLOURS))
        self.anchors = torch.nn.Linear(width, 1)
        self.across = torch.nn.Linear(width, grid)
        self.down = torch.nn.Linear(width, grid)
        self.register_buffer("weights", _weights(), persistent=False)

    def loss(self, rows: torch.Tensor, labels: Labels, name: str, scores: Scores) -> torch.Tensor:
        """How wrong `rows` [batch, grid * grid, width] are about `labels`."""
        kind, colour, anchor = labels.unbind(-1)
        kinds = self.kinds(rows)
        scores.add_kinds(name, kinds, kind)
        anchors = self.anchors(rows).float().squeeze(-1)
        return (
            _cross_entropy(kinds, kind, weight=self.get_buffer("weights"))
            + 0.5 * _cross_entropy(self.colours(rows), colour, ignore_index=-1)
            + 0.5 * _anchored(anchors, anchor)
            + 0.1 * self._places(rows)
        )

    def _places(self, rows: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(self.grid, device=rows.device)
        down = numbers.repeat_interleave(self.grid).expand(len(rows), -1)
        across = numbers.repeat(self.grid).expand(len(rows), -1)
        return _cross_entropy(self.down(rows), down) + _cross_entropy(self.across(rows), across)


def of_rows(labels: Labels) -> Labels:
    """[batch, 4 * places, 3] -> [batch, places, 3]: of 2 x 2 cells the one that tells most.

    That is the anchor, or else a cell with something on it.
    """
    batch, cells, parts = labels.shape
    half = int(cells**0.5) // 2
    squares = (
        labels.view(batch, half, 2, half, 2, parts).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    )
    telling = (squares[..., 2] * len(KINDS) + squares[..., 0]).argmax(-1)
    return squares.gather(2, telling[..., None, None].expand(-1, -1, 1, parts)).squeeze(2)


def _weights() -> torch.Tensor:
    """Of each kind."""
    return torch.tensor([_CHARACTERS_COUNT if len(kind) == 1 else 1.0 for kind in KINDS])


def _anchored(logits: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor(_ANCHORS_COUNT, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, anchor.float(), pos_weight=weight)


def _cross_entropy(
    logits: torch.Tensor,
    wanted: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
) -> torch.Tensor:
    """The mean over all places of logits [batch, places, classes]."""
    return functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), weight, ignore_index=ignore_index
    )
