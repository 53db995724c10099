"""What changes the weights: Muon for the matrices inside layers, AdamW for everything else.

Muon (orthogonalised momentum) reached a given accuracy of the tower in a fraction of the pictures
that AdamW needed. It is in torch from 2.9 on.
"""

from typing import Any

import torch
from torch import nn

_MATRICES_FASTER = 3.0  # than the rate of all else


def make_optimizers(learner: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Each parameter belongs to one of them; `set_rate` changes both."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in learner.named_parameters():
        if parameter.dim() == 2 and (".layers." in name or ".linear_proj." in name):
            matrices.append(parameter)
        else:
            (others if parameter.dim() > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            matrices, _MATRICES_FASTER * rate, weight_decay=0.03, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            groups,
            rate,
            betas=(0.9, 0.98),
            weight_decay=0.03,
            fused=True,
        ),
    ]


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """The learning rate of AdamW; Muon's follows."""
    for optimizer, factor in zip(optimizers, (_MATRICES_FASTER, 1.0), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
