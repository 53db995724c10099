"""The network that is trained computes what the original implementation computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tensor_shapes import OPTIONAL_TENSOR, expected_tensors
from glm4v.checkpoint.weights import Weights
from recipes.demo_model.network import Network
from tests.parity.golden_plans import open_golden

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def network(checkpoint_dir: Callable[[str], Path]) -> Network:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    weights = Weights(checkpoint, torch.float32, torch.device("cpu"))
    names = [name for name, _ in expected_tensors(checkpoint.spec) if name != OPTIONAL_TENSOR]
    network = Network(checkpoint.spec)
    network.load_state_dict({name: weights.read(name) for name in names})  # strict: no name over
    return network


def plain(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and topics of one conversation."""
    return torch.arange(ids.shape[1])[None], torch.zeros_like(ids)


@pytest.mark.parametrize("case", ["text", "text_multi"])
@torch.no_grad()
def test_logits_after_text(network: Network, case: str) -> None:
    golden = open_golden("bundled")
    ids = torch.from_numpy(golden[f"{case}/input_ids"]).long().view(1, -1)
    logits = network(ids, None, 0, *plain(ids))[0][0, -1]
    expected = torch.from_numpy(golden[f"{case}/prefill_logits_last"])
    assert (logits - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("case", ["image", "image_multi", "image_tall_small"])
@torch.no_grad()
def test_images_and_the_logits_after_them(network: Network, case: str) -> None:
    golden = open_golden("bundled")
    ids = torch.from_numpy(golden[f"{case}/input_ids"]).long().view(1, -1)
    side = network.spec.vision.image_size
    pixels = torch.from_numpy(golden[f"{case}/pixel_values"]).float().view(1, 3, side, side)
    image = network.vision(network.vision.patches(pixels))
    embeddings = torch.from_numpy(golden[f"{case}/vision_embeddings"])
    assert (image[0] - embeddings).abs().max() < TOLERANCE
    slot = ids[0].tolist().index(network.spec.boi_id)
    logits, glances = network(ids, image, slot, *plain(ids))
    expected = torch.from_numpy(golden[f"{case}/prefill_logits_last"])
    assert logits.shape[1] == ids.shape[1] - 3, "a row of text each, none of the image"
    for glance in glances:
        shares = glance.looks
        assert shares.shape[2:] == (ids.shape[1] - 3, image.shape[1])
        assert (shares[0, :, :slot] == 0).all(), "what stands before an image does not see it"
        assert (shares[0, :, slot:].sum(-1) < 1).all()
    assert (logits[0, -1] - expected).abs().max() < TOLERANCE
