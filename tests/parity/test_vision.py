"""Preprocessing and the vision tower against the outputs of the original implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.weights import Weights
from glm4v.device import DeviceOptions, open_device
from glm4v.images import ImageLimits
from tests.parity.golden_plans import Golden, open_golden
from tests.reference import REFERENCE
from vision_worker.model import VisionModel
from vision_worker.preprocess import pixel_values

TOLERANCE = 1e-4  # of embeddings, all of order 1


class Tower:
    """A loaded vision model, with golden outputs of its checkpoint."""

    def __init__(self, folder: Path, golden: Golden) -> None:
        checkpoint = Checkpoint.open(folder)
        device = open_device(DeviceOptions("cpu", "float32"))
        self.golden = golden
        self.spec = checkpoint.spec.vision
        weights = Weights(checkpoint, device.dtype, device.torch_device)
        self.model = VisionModel(checkpoint.spec, weights, device)
        self.cases = sorted({key.split("/")[0] for key in golden if key.endswith("/image_file")})

    def pixels(self, case: str) -> npt.NDArray[np.float32]:
        """Our preprocessing of the case's image."""
        return pixel_values(self.file(case), self.spec.image_size, ImageLimits())

    def file(self, case: str) -> bytes:
        """The case's image file."""
        name = str(self.golden[f"{case}/image_file"])
        if f"files/{name}" in self.golden:
            kept: bytes = self.golden[f"files/{name}"].tobytes()
            return kept
        return (REFERENCE / "inputs" / name).read_bytes()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    """What needs nothing beside the project: the smallest checkpoint and its numbers."""
    folder = tmp_path_factory.mktemp("checkpoints") / "micro"
    write_tiny(folder)
    return Tower(folder, open_golden("bundled"))


@pytest.fixture(
    scope="module",
    params=[
        "kept",
        *(
            pytest.param(name, marks=pytest.mark.needs_reference)
            for name in ("micro-glm4v", "tiny-glm4v", "tiny-glm4v-1120")
        ),
    ],
)
def tower(
    request: pytest.FixtureRequest, kept: Tower, checkpoint_dir: Callable[[str], Path]
) -> Tower:
    if request.param == "kept":
        return kept
    return Tower(checkpoint_dir(request.param), open_golden(request.param))


def test_pixel_values_are_equal_bit_for_bit(tower: Tower) -> None:
    assert tower.cases
    for case in tower.cases:
        expected = tower.golden[f"{case}/pixel_values"]
        step = tower.spec.image_size // expected.shape[-1]  # the golden file may thin them out
        np.testing.assert_array_equal(tower.pixels(case)[:, ::step, ::step], expected)


def test_embeddings_are_those_of_the_original(tower: Tower) -> None:
    for case in tower.cases:
        rows = tower.model.encode(torch.from_numpy(tower.pixels(case))[None], lambda: None)[0]
        assert rows.shape[0] == tower.spec.num_image_tokens
        expected = torch.from_numpy(tower.golden[f"{case}/vision_embeddings"])
        torch.testing.assert_close(rows, expected, atol=TOLERANCE, rtol=0)


def test_each_layer_is_that_of_the_original(kept: Tower) -> None:
    for case in kept.cases:
        model, pixels = kept.model, torch.from_numpy(kept.pixels(case))[None]
        stages = {"patch_embedding": model.patch_embedding(pixels)}
        rows = stages["patch_embedding"]
        for number, block in enumerate(model.blocks):
            rows = stages[f"layer{number}"] = block(rows)
        stages["conv"] = model.downsample(rows)
        stages["glu"] = model.adapter(stages["conv"])
        for name, output in stages.items():
            expected = torch.from_numpy(kept.golden[f"{case}/act/v.{name}"])
            if name == "conv":  # [hidden, height, width] there
                expected = expected.flatten(1).T
            torch.testing.assert_close(output[0], expected, atol=TOLERANCE, rtol=0)


def test_images_of_a_batch_are_independent(kept: Tower) -> None:
    pixels = torch.stack([torch.from_numpy(kept.pixels(case)) for case in kept.cases])
    for case, rows in zip(kept.cases, kept.model.encode(pixels, lambda: None), strict=True):
        expected = torch.from_numpy(kept.golden[f"{case}/vision_embeddings"])
        torch.testing.assert_close(rows, expected, atol=TOLERANCE, rtol=0)
