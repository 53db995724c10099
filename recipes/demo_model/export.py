"""Writes what was trained as a checkpoint: `python -m recipes.demo_model.export`.

The patch weights are widened from 14 to 70 pixels: each weight stands for the mean of 5 x 5 pixels.
What is stored is bfloat16, as in the published checkpoint.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tensor_shapes import OPTIONAL_TENSOR, expected_tensors
from glm4v.checkpoint.tiny import write_tokenizer_config
from glm4v.checkpoint.weights import Weights
from recipes.demo_model.learner import SHRUNK
from recipes.demo_model.progress import RUN, load_weights

_PATCHES = "transformer.vision.patch_embedding.proj.weight"
_FILE = "model-00001-of-00001.safetensors"


def export(run: Path, model_dir: Path) -> None:
    """Write the weights of the run in folder `run` beside config.json and tokenizer.model."""
    spec = read_spec(model_dir)
    tensors = checkpoint_tensors(load_weights(run), spec)
    save_file(tensors, model_dir / _FILE, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict.fromkeys(sorted(tensors), _FILE),
    }
    text = json.dumps(index, indent=2) + "\n"
    (model_dir / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    write_tokenizer_config(spec, model_dir)
    _answer_greedily(model_dir / "generation_config.json")


def _answer_greedily(path: Path) -> None:
    """The published checkpoint draws unless told otherwise; a small one is better off without."""
    config = {**json.loads(path.read_text(encoding="utf-8")), "do_sample": False}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def checkpoint_tensors(
    weights: dict[str, torch.Tensor], spec: ModelSpec
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by name, from those of `Network`."""
    tensors = {}
    for name, shape in expected_tensors(spec):
        if name == OPTIONAL_TENSOR:
            continue
        tensor = weights[name].float()
        if name == _PATCHES:
            tensor = tensor.repeat_interleave(SHRUNK, 2).repeat_interleave(SHRUNK, 3) / SHRUNK**2
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)} was trained, {shape} is needed")
        tensors[name] = tensor.bfloat16().contiguous()
    return tensors


def read_weights(model_dir: Path) -> dict[str, torch.Tensor]:
    """The way back: the weights of `Network` from those of a checkpoint, rounded as they are."""
    checkpoint = Checkpoint.open(model_dir)
    reader = Weights(checkpoint, torch.float32, torch.device("cpu"))
    names = [name for name, _ in expected_tensors(checkpoint.spec) if name != OPTIONAL_TENSOR]
    weights = {name: reader.read(name) for name in names}
    wide = weights[_PATCHES]
    weights[_PATCHES] = torch.nn.functional.avg_pool2d(wide, SHRUNK) * SHRUNK**2
    return weights


def main(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN,
    model: Annotated[Path, typer.Option(help="Folder of config.json and tokenizer.model.")] = Path(
        "glm4v/demo_model"
    ),
) -> None:
    """Write the checkpoint of a run."""
    export(run, model)


if __name__ == "__main__":
    typer.run(main)
