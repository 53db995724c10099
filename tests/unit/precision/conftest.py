"""open_clip's own code, on a model small enough to be made here."""

import contextlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image, ImageDraw

_OPERATORS = ("nms", "qnms")  # of torchvision's compiled half, which nothing here calls
_NAME = "small-judge"
_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


def load() -> ModuleType:
    """open_clip, also beside a torchvision whose compiled half was built for another torch."""
    with contextlib.suppress(RuntimeError):
        return importlib.import_module("open_clip")
    for module in [name for name in sys.modules if name.startswith(("torchvision", "open_clip"))]:
        del sys.modules[module]
    for operator in _OPERATORS:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{operator}", schema)
    return importlib.import_module("open_clip")


@dataclass(frozen=True, slots=True)
class SmallJudge:
    """A judge with random weights, of an architecture that open_clip knows by `model`."""

    model: str
    weights: Path  # as torch.save writes a state dict
    folder: Path  # the same as a local-dir


@pytest.fixture(scope="session")
def open_clip() -> ModuleType:
    return load()


@pytest.fixture(scope="session")
def small_judge(open_clip: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SmallJudge:
    folder = tmp_path_factory.mktemp("judge")
    (folder / f"{_NAME}.json").write_text(json.dumps(_CONFIG))
    open_clip.add_model_config(folder / f"{_NAME}.json")
    torch.manual_seed(1)
    model = open_clip.create_model(_NAME)
    weights = folder / "judge.bin"
    torch.save(model.state_dict(), weights)
    local = folder / "local"
    local.mkdir()
    torch.save(model.state_dict(), local / "open_clip_pytorch_model.bin")
    (local / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": _CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    return SmallJudge(_NAME, weights, local)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images that look different."""
    folder = tmp_path_factory.mktemp("images")
    for number, colour in enumerate(("red", "white", "navy")):
        image = Image.new("RGB", (60, 40 + 10 * number), colour)
        ImageDraw.Draw(image).ellipse((5, 5, 25 + 5 * number, 30), fill="yellow")
        image.save(folder / f"{number}.png")
    return folder
