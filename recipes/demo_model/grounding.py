"""Where the language model looks before it answers: taught, because it is hard to find alone.

To say how many tigers there are among cats, one has to look for tigers. Nothing but the answer
tells a small model so, and it then prefers to guess from all it sees. So the rows that begin an
answer are told to know what the question names, and in the next layer three heads are told where to
look for it: one at everything the question asks about, and at the row before the picture where
there is nothing of it; one at the last such thing, which knows the how-manieth of its kind it is
(`tally`); one at each with the same weight, so that the more there are the less it looks elsewhere.
And behind that layer the rows are told how many things they found: a digit is one word of a hundred
that a picture teaches.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from recipes.demo_model.batches import Batch
from recipes.demo_model.beginnings import begin
from recipes.demo_model.labels import KINDS
from recipes.demo_model.network import Glance
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.scores import Scores
from recipes.demo_model.shares import MOST, counting, far
from recipes.demo_model.turns import ANYWHERE, IGNORED

LAYER = 2  # that looks: the third, behind two that bring together what is asked for

_WHICH, _LAST, _HOW_MANY = 0, 1, -1  # heads; the third one's keys are not those of the others
_ONE_COUNTS = 0.2  # against other numbers: most questions are about one thing


class Grounding(torch.nn.Module):
    """Of a language model of width `hidden`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.kinds = torch.nn.Linear(hidden, len(KINDS))
        self.colours = torch.nn.Linear(hidden, len(COLOURS) + 1)  # the last: of no colour
        self.numbers = torch.nn.Linear(hidden, MOST + 1)
        weights = torch.ones(MOST + 1)
        weights[1] = _ONE_COUNTS
        self.register_buffer("weights", weights, persistent=False)

    def loss(self, glances: Sequence[Glance], batch: Batch, scores: Scores) -> torch.Tensor:
        """How far the rows that begin answers are from knowing and seeing what is asked about."""
        number, rows = begin(batch.owners).nonzero(as_tuple=True)
        owners = batch.owners[number, rows]
        known = glances[LAYER - 1].rows[number, rows]
        places = batch.places[number, owners]
        looks = glances[LAYER].looks[number, :, rows, :-1]
        seen = glances[LAYER].rows[number, rows]
        named = self._named(known, batch.named[number, owners], scores)
        return named + looked(looks, places, scores) + self.counted(seen, places, scores)

    def counted(self, seen: torch.Tensor, places: torch.Tensor, scores: Scores) -> torch.Tensor:
        """How far rows are from telling how many they looked at.

        `seen` [answers, hidden], `places` [answers, picture rows] (see `turns.places`).
        """
        taught = (places != ANYWHERE).all(-1)
        numbers = places[taught].sum(-1)
        found: torch.Tensor = self.numbers(seen[taught]).float()
        if not len(numbers):
            return found.sum()
        several = numbers > 1
        scores.add_share("numbers", (found.argmax(-1) == numbers)[several])
        return functional.cross_entropy(found, numbers, self.get_buffer("weights"))

    def _named(self, known: torch.Tensor, named: torch.Tensor, scores: Scores) -> torch.Tensor:
        """`known` [answers, hidden], `named` [answers, 2]: kind and colour, IGNORED or not."""
        kinds = self.kinds(known).float()
        kind, colour = named.unbind(-1)
        is_named = kind != IGNORED
        scores.add_share("named", (kinds.argmax(-1) == kind)[is_named])
        count = is_named.sum().clamp(min=1)
        losses = functional.cross_entropy(kinds, kind, reduction="sum", ignore_index=IGNORED)
        losses = losses + functional.cross_entropy(
            self.colours(known).float(), colour, reduction="sum", ignore_index=IGNORED
        )
        return losses / count


def looked(looks: torch.Tensor, places: torch.Tensor, scores: Scores) -> torch.Tensor:
    """How far the three heads look from where they should.

    Args:
        looks: [answers, heads, 1 + picture rows], what each head gives of its attention to the row
            before the picture and to the picture.
        places: [answers, picture rows] (see `turns.places`).
        scores: Hears how often the first head looks most at something it should.
    """
    taught = (places != ANYWHERE).all(-1)
    looks, wanted = looks[taught], places[taught].float()
    if not len(looks):
        return looks.sum()
    count = wanted.sum(-1, keepdim=True)
    which = torch.cat((count == 0, wanted / count.clamp(min=1)), -1)
    best = looks[:, _WHICH].argmax(-1, keepdim=True)
    scores.add_share("looks", which.gather(-1, best) > 0)
    last = functional.one_hot(_last(wanted), looks.shape[-1]).float()
    losses = (
        far(looks[:, _WHICH], which)
        + far(looks[:, _LAST], last)
        + far(looks[:, _HOW_MANY], counting(wanted))
    )
    return losses.mean()


def _last(wanted: torch.Tensor) -> torch.Tensor:
    """The last place of [answers, picture rows] where there is something, behind nowhere: 0."""
    numbers = torch.arange(1, wanted.shape[-1] + 1, device=wanted.device)
    return ((wanted > 0) * numbers).amax(-1)
