"""Each thing in a picture knows the how-manieth of its kind it is: taught, to count with.

Rows of a picture see those before them, as in any text. In the first layer two heads of a row where
a thing has its middle are told to look at all things that are like it, up to itself, each with the
same weight; behind the second layer the row is told which number that is. The last of a kind then
knows how many there are, whatever else the picture shows, and whoever asks needs to find only that
one (`grounding`). Every thing of every picture teaches this, asked about or not.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from recipes.demo_model.heads import of_rows
from recipes.demo_model.network import Glance
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.scores import Scores
from recipes.demo_model.shares import MOST, counting, far

_LOOKS, _KNOWS = 0, 1  # layers
_HEADS = (0, -1)  # that look; they belong to different keys
_ALONE = 0.2  # against others: most things are the only one of their kind


class Tally(torch.nn.Module):
    """Of a language model of width `hidden`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.numbers = torch.nn.Linear(hidden, MOST + 1)

    def loss(self, glances: Sequence[Glance], labels: torch.Tensor, scores: Scores) -> torch.Tensor:
        """How far things are from seeing and knowing their number; `labels` as in a batch."""
        alike = _alike(of_rows(labels))
        before = alike.tril()
        number, row = alike.diagonal(dim1=1, dim2=2).nonzero(as_tuple=True)
        before = before[number, row].float()
        counts = before.sum(-1).long().clamp(max=MOST)
        several = alike[number, row].sum(-1) > 1
        weights = torch.where(several, 1.0, _ALONE)
        looks = glances[_LOOKS].among[:, _HEADS, 1:-1, :-1].transpose(1, 2)[number, row]
        told = self.numbers(glances[_KNOWS].picture[:, 1:-1][number, row]).float()
        scores.add_share("tally", (told.argmax(-1) == counts)[several])
        losses = far(looks, counting(before)[:, None]).mean(-1)
        losses = losses + functional.cross_entropy(told, counts, reduction="none")
        return (losses * weights).sum() / weights.sum().clamp(min=1)


def _alike(labels: torch.Tensor) -> torch.Tensor:
    """Which rows hold the middles of like things, [batch, rows, rows], from labels of rows."""
    kind, colour, anchor = labels.unbind(-1)
    named = kind * (len(COLOURS) + 1) + colour + 1  # a colour may be unknown: -1
    is_thing = anchor > 0
    same = named[:, :, None] == named[:, None, :]
    return same & is_thing[:, :, None] & is_thing[:, None, :]
