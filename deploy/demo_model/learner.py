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

_BESIDE_ANSWERS = 0.3  # weight of the other losses once answers are learnt
_CHARACTERS_COUNT = 4.0


class Learner(torch.nn.Module):
    """The network, and the heads that only training needs.

    They say what covers each cell of the tower's output, in which colour, and what each picture row
    of the language model shows.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = Network(spec)
        self.kinds = torch.nn.Linear(spec.vision.hidden_size, len(KINDS))
        self.colours = torch.nn.Linear(spec.vision.hidden_size, len(COLOURS))
        self.row_kinds = torch.nn.Linear(spec.hidden_size, len(KINDS))
        self.register_buffer("weights", _weights(), persistent=False)

    def forward(self, batch: Batch, scores: Scores, *, tower_only: bool) -> torch.Tensor:
        """The loss of a batch; `scores` hears how well it went."""
        if not len(batch.pixels):
            logits = self.network(batch.ids, None, IMAGE_SLOT)
            return self._answers(logits, batch, scores)
        patches = self.network.vision.patches(normalised(batch.pixels))
        cells = self._cells(patches, batch, scores)
        if tower_only:
            return cells
        picture = self.network.vision(patches)
        beside = cells + self._kinds_of(self.row_kinds(picture[:, 1:-1]), _of_rows(batch.kinds))
        logits = self.network(batch.ids, picture, IMAGE_SLOT)
        return self._answers(logits, batch, scores) + _BESIDE_ANSWERS * beside

    def _cells(self, patches: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        kinds = self.kinds(patches)
        colours = self.colours(patches).float().flatten(0, 1)
        scores.add_cells(kinds, batch.kinds)
        coloured = functional.cross_entropy(colours, batch.colours.flatten(), ignore_index=-1)
        return self._kinds_of(kinds, batch.kinds) + 0.5 * coloured

    def _kinds_of(self, logits: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """logits [batch, places, kinds], kinds [batch, places]."""
        weights = self.get_buffer("weights")
        return functional.cross_entropy(logits.float().flatten(0, 1), kinds.flatten(), weights)

    def _answers(self, logits: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        logits = logits.float()
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        scores.add_answers(logits, batch, float(loss.detach()))
        return loss


def _weights() -> torch.Tensor:
    """Of each kind: characters are small and seldom, what they are hard to tell."""
    characters = [_CHARACTERS_COUNT if len(kind) == 1 else 1.0 for kind in KINDS]
    return torch.tensor(characters)


def _of_rows(kinds: torch.Tensor) -> torch.Tensor:
    """[batch, cells] -> [batch, cells / 4]: a picture row has 2 x 2; background counts least."""
    grid = int(kinds.shape[1] ** 0.5)
    return kinds.view(len(kinds), grid // 2, 2, grid // 2, 2).amax(dim=(2, 4)).flatten(1)


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
