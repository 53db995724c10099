"""Where the language model looks before it answers: taught, because it is hard to find alone.

To say how many tigers there are among cats, one has to look for tigers. Nothing but the answer
tells a small model so, and it then prefers to guess from all it sees. So two heads of one layer are
told where to look in the rows that begin an answer: one at everything the question asks about, and
at the row before the picture where there is nothing of it; the other at each such thing with the
same weight, so that the more there are the less it looks elsewhere, which is what counting needs.
"""

import torch

from deploy.demo_model.scores import Scores
from deploy.demo_model.turns import ANYWHERE, IGNORED

LAYER = 2  # the third: the first two bring together what is asked for

_WHICH, _HOW_MANY = 0, -1  # heads; they belong to different keys
_EACH = 1 / 8  # the weight of each thing for the head that counts
_LEAST = 1e-6  # of a share, so that its logarithm is finite


def loss(
    shares: torch.Tensor, owners: torch.Tensor, places: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """How far the two heads look from where they should.

    Args:
        shares: [batch, heads, rows of text, picture rows + 2], what each head gives of its
            attention to the picture.
        owners: [batch, rows of text], as in `Lesson`.
        places: [batch, exchanges, picture rows], of each conversation's exchanges.
        scores: Hears how often the first head looks most at something it should.
    """
    batch, rows = _beginnings(owners)
    wanted = places[batch, owners[batch, rows]]
    taught = (wanted != ANYWHERE).all(-1)
    batch, rows, wanted = batch[taught], rows[taught], wanted[taught].float()
    if not len(batch):
        return shares.sum() * 0.0
    count = wanted.sum(-1, keepdim=True)
    which = torch.cat((count == 0, wanted / count.clamp(min=1)), -1)
    how_many = torch.cat((1 - count * _EACH, wanted * _EACH), -1).clamp(min=0)
    total = shares.new_zeros(())
    for head, target in ((_WHICH, which), (_HOW_MANY, how_many)):
        looked = shares[batch, head, rows, :-1]
        total = total - (target * (looked + _LEAST).log()).sum(-1).mean()
        if head == _WHICH:
            best = looked.argmax(-1, keepdim=True)
            scores.add_looks(target.gather(-1, best) > 0)
    return total


def _beginnings(owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first two rows of each answer: that of <|assistant|> and that of its newline."""
    before = torch.full_like(owners, IGNORED)
    before[:, 2:] = owners[:, :-2]
    batch, rows = ((owners != IGNORED) & (before != owners)).nonzero(as_tuple=True)
    return batch, rows
