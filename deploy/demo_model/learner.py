"""What is trained: the network, and the two heads of the cells that only training needs."""

from dataclasses import replace

import torch
from torch.nn import functional

from deploy.demo_model.batches import Batch, normalised
from deploy.demo_model.labels import KINDS
from deploy.demo_model.network import Network
from deploy.demo_model.palette import COLOURS
from deploy.demo_model.scores import Scores
from deploy.demo_model.turns import IMAGE_SLOT
from glm4v.model_spec import ModelSpec

SHRUNK = 5  # pixels of a picture as it is served for one of training

_CELLS_BESIDE_ANSWERS = 0.3  # weight of the cells' loss once answers are learnt


class Learner(torch.nn.Module):
    """The network, and the two heads of the cells that only training needs."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = Network(spec)
        self.kinds = torch.nn.Linear(spec.vision.hidden_size, len(KINDS))
        self.colours = torch.nn.Linear(spec.vision.hidden_size, len(COLOURS))

    def forward(self, batch: Batch, scores: Scores, *, tower_only: bool) -> torch.Tensor:
        """The loss of a batch; `scores` hears how well it went."""
        if not len(batch.pixels):
            logits = self.network(batch.ids, None, IMAGE_SLOT)
            return self._answers(logits, batch, scores)
        patches = self.network.vision.patches(normalised(batch.pixels))
        cells = self._cells(patches, batch, scores)
        if tower_only:
            return cells
        logits = self.network(batch.ids, self.network.vision(patches), IMAGE_SLOT)
        return self._answers(logits, batch, scores) + _CELLS_BESIDE_ANSWERS * cells

    def _cells(self, patches: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        kinds = self.kinds(patches).float().flatten(0, 1)
        colours = self.colours(patches).float().flatten(0, 1)
        scores.add_cells(kinds, batch.kinds.flatten())
        coloured = functional.cross_entropy(colours, batch.colours.flatten(), ignore_index=-1)
        return functional.cross_entropy(kinds, batch.kinds.flatten()) + 0.5 * coloured

    def _answers(self, logits: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        logits = logits.float()
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
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
