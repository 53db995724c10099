"""What is trained: the network, and the two heads of the cells that only training needs."""

from dataclasses import replace
from typing import Literal

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

# The tower alone; then the adapter alone, on a tower that stays as it is; then everything.
Stage = Literal["tower", "adapter", "all"]

_BESIDE_ANSWERS = 0.3  # weight of the other losses once answers are learnt
_CHARACTERS_COUNT = 4.0


class Learner(torch.nn.Module):
    """The network, and the heads that only training needs.

    They say what covers each cell of the tower's output, and in which colour, and the same of each
    picture row of the language model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = Network(spec)
        self.kinds = torch.nn.Linear(spec.vision.hidden_size, len(KINDS))
        self.colours = torch.nn.Linear(spec.vision.hidden_size, len(COLOURS))
        self.row_kinds = torch.nn.Linear(spec.hidden_size, len(KINDS))
        self.row_colours = torch.nn.Linear(spec.hidden_size, len(COLOURS))
        self.register_buffer("weights", _weights(), persistent=False)

    def forward(self, batch: Batch, scores: Scores, stage: Stage) -> torch.Tensor:
        """The loss of a batch; `scores` hears how well it went."""
        if not len(batch.pixels):
            logits = self.network(batch.ids, None, IMAGE_SLOT)
            return self._answers(logits, batch, scores)
        vision = self.network.vision
        with torch.set_grad_enabled(stage != "adapter"):
            patches = vision.patches(normalised(batch.pixels))
        if stage == "tower":
            return self._cells(patches, batch, scores)
        picture = vision(patches)
        if stage == "adapter":
            return self._rows(picture, batch, scores)
        beside = self._cells(patches, batch, scores) + self._rows(picture, batch, scores)
        logits = self.network(batch.ids, picture, IMAGE_SLOT)
        return self._answers(logits, batch, scores) + _BESIDE_ANSWERS * beside

    def _cells(self, patches: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        kinds, colours = self.kinds(patches), self.colours(patches)
        scores.add_kinds("cells", kinds, batch.kinds)
        return self._shown(kinds, batch.kinds, colours, batch.colours)

    def _rows(self, picture: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        rows = picture[:, 1:-1]
        kinds, wanted = self.row_kinds(rows), _of_rows(batch.kinds)
        scores.add_kinds("rows", kinds, wanted)
        return self._shown(kinds, wanted, self.row_colours(rows), _of_rows(batch.colours))

    def _shown(
        self, kinds: torch.Tensor, kind: torch.Tensor, colours: torch.Tensor, colour: torch.Tensor
    ) -> torch.Tensor:
        """Logits [batch, places, classes] of kinds and colours, and which ones are right."""
        weights = self.get_buffer("weights")
        return functional.cross_entropy(
            kinds.float().flatten(0, 1), kind.flatten(), weights
        ) + 0.5 * functional.cross_entropy(
            colours.float().flatten(0, 1), colour.flatten(), ignore_index=-1
        )

    def _answers(self, logits: torch.Tensor, batch: Batch, scores: Scores) -> torch.Tensor:
        logits = logits.float()
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        scores.add_answers(logits, batch, float(loss.detach()))
        return loss


def _weights() -> torch.Tensor:
    """Of each kind: characters are small and seldom, what they are hard to tell."""
    characters = [_CHARACTERS_COUNT if len(kind) == 1 else 1.0 for kind in KINDS]
    return torch.tensor(characters)


def _of_rows(cells: torch.Tensor) -> torch.Tensor:
    """[batch, cells] -> [batch, cells / 4]: a row has 2 x 2; what is no background comes first."""
    grid = int(cells.shape[1] ** 0.5)
    return cells.view(len(cells), grid // 2, 2, grid // 2, 2).amax(dim=(2, 4)).flatten(1)


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
