"""What is trained: the network, and the heads that only training needs."""

from dataclasses import replace
from typing import Literal

import torch
from torch.nn import functional

from glm4v.checkpoint.spec import ModelSpec
from recipes.demo_model.batches import Batch, normalised
from recipes.demo_model.beginning import initialise
from recipes.demo_model.beginnings import say_first_word
from recipes.demo_model.grounding import Grounding
from recipes.demo_model.heads import Heads, of_rows
from recipes.demo_model.network import Network
from recipes.demo_model.scores import Scores
from recipes.demo_model.tally import Tally
from recipes.demo_model.turns import IGNORED, IMAGE_SLOT

SHRUNK = 5  # pixels of a picture as it is served for one of training

# The tower alone; then the adapter alone, on a tower that stays as it is; then everything. Where a
# checkpoint goes on: first all but the tower, so that the heads, which no checkpoint has, know it.
Stage = Literal["tower", "adapter", "all", "language"]

_FIRST_WORD = 2.0  # against the others: it is what a picture decides most often
_BESIDE_ANSWERS = 0.3  # weight of what cells and rows show once answers are learnt


class Learner(torch.nn.Module):
    """The network, and the heads that only training needs.

    They say what each cell of the tower's output shows, and the same of each picture row of the
    language model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = Network(spec)
        initialise(self.network)
        grid = spec.vision.grid
        self.cells = Heads(spec.vision.hidden_size, grid)
        self.rows = Heads(spec.hidden_size, grid // 2)
        self.grounding = Grounding(spec.hidden_size)
        self.tally = Tally(spec.hidden_size)

    def forward(self, batch: Batch, scores: Scores, stage: Stage) -> torch.Tensor:
        """The loss of a batch; `scores` hears how well it went."""
        if not len(batch.pixels):
            logits, _ = self.network(batch.ids, None, IMAGE_SLOT, batch.positions, batch.topics)
            return self._answers(logits, batch, scores)
        vision = self.network.vision
        with torch.set_grad_enabled(stage in ("tower", "all")):
            patches = vision.patches(normalised(batch.pixels))
        if stage == "tower":
            return self._cells(patches, batch, scores)
        picture = vision(patches)
        if stage == "adapter":
            return self._rows(picture, batch, scores)
        logits, glances = self.network(
            batch.ids, picture, IMAGE_SLOT, batch.positions, batch.topics
        )
        answers = self._answers(logits, batch, scores)
        answers += self.grounding.loss(glances, batch, scores)
        answers += self.tally.loss(glances, batch.labels, scores)
        beside = self._cells(patches, batch, scores) + self._rows(picture, batch, scores)
        return answers + _BESIDE_ANSWERS * beside

    def _cells(self, patches: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        return self.cells.loss(patches, batch.labels, "cells", scores)

    def _rows(self, picture: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        return self.rows.loss(picture[:, 1:-1], of_rows(batch.labels), "rows", scores)

    def _answers(self, logits: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        logits = logits.float()
        losses = functional.cross_entropy(
            logits.transpose(1, 2), batch.targets, reduction="none", ignore_index=IGNORED
        )
        weights = (batch.targets != IGNORED) * torch.where(
            say_first_word(batch.owners), _FIRST_WORD, 1.0
        )
        loss = (losses * weights).sum() / weights.sum()
        scores.add_answers(logits, batch, float(loss.detach()))
        return loss


def shrunk(spec: ModelSpec) -> ModelSpec:
    """The model as it is trained, on pictures of a fifth of the side."""
    vision = spec.vision
    return replace(
        spec,
        vision=replace(
            vision,
            patch_size=vision.patch_size // SHRUNK,
            image_size=vision.image_size // SHRUNK,
        ),
    )
