"""What changes the weights: Muon for the matrices inside layers, AdamW for everything else.

The model card says what trials of the two gave, and why they prove little.
"""

from typing import Any

import torch
from torch import nn

from recipes.demo_model.muon import Muon

_MATRICES_FASTER = 3.0  # than the rate of all else
_LANGUAGE_FASTER = 2.0  # than the tower, which has learnt before it
_HEADS_FASTER = 10.0  # than the tower: what they do not know yet disturbs it


def make_optimizers(learner: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Each parameter belongs to one of them; `set_rate` changes both."""
    named = list(learner.named_parameters())
    matrices = [(name, p) for name, p in named if _is_muons(name, p)]
    others = [(name, p) for name, p in named if not _is_muons(name, p) and p.dim() > 1]
    vectors = [(name, p) for name, p in named if p.dim() <= 1]
    return [
        Muon(_groups(matrices, _MATRICES_FASTER), rate, weight_decay=0.03),
        torch.optim.AdamW(
            [*_groups(others, 1.0, weight_decay=0.03), *_groups(vectors, 1.0, weight_decay=0.0)],
            rate,
            betas=(0.9, 0.98),
            fused=True,
        ),
    ]


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """The learning rate of the tower's vectors; all others follow."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["faster"] * rate


def _is_muons(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and (".layers." in name or ".linear_proj." in name)


def _is_towers(name: str) -> bool:
    return ".vision.transformer." in name or ".patch_embedding." in name


def _is_heads(name: str) -> bool:
    return not name.startswith("network.")


def _groups(
    named: list[tuple[str, nn.Parameter]], faster: float, **options: float
) -> list[dict[str, Any]]:
    """Those of the tower, the heads and the language model, as groups of an optimizer."""
    groups: dict[float, list[nn.Parameter]] = {1.0: [], _HEADS_FASTER: [], _LANGUAGE_FASTER: []}
    for name, parameter in named:
        speed = _LANGUAGE_FASTER
        if _is_heads(name):
            speed = _HEADS_FASTER
        elif _is_towers(name):
            speed = 1.0
        groups[speed].append(parameter)
    return [
        {"params": parameters, "faster": faster * speed, **options}
        for speed, parameters in groups.items()
        if parameters
    ]
