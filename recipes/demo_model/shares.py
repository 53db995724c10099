"""Shares of attention: what counting wants of them, and how far they are from what is wanted.

Shares are those that a row gives to the row before a picture and to the picture: [..., 1 + rows].
"""

import torch

MOST = 9  # things in a picture
_EACH = 1 / 8  # the weight of each thing
_LEAST = 1e-6  # of a share, so that its logarithm is finite


def counting(things: torch.Tensor) -> torch.Tensor:
    """The same weight for each thing, the rest before the picture; `things` [..., rows] there."""
    before = 1 - things.sum(-1, keepdim=True) * _EACH
    return torch.cat((before, things * _EACH), -1).clamp(min=0)


def far(shares: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The cross entropy of each row's shares."""
    return -(wanted * (shares.float() + _LEAST).log()).sum(-1)
