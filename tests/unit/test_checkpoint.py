"""A checkpoint that cannot be served is one clear line, naming the file and the tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm4v.checkpoint import Checkpoint
from glm4v.errors import CheckpointError
from glm4v.tiny import write_tiny
from glm4v.weights import Weights

WORDS = "transformer.embedding.word_embeddings.weight"
HEAD = "transformer.output_layer.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


def shard_of(folder: Path, tensor: str) -> Path:
    """The file a tensor lies in."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][tensor])


def change_shard(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Load a shard, change its tensors, write it again."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_config(folder: Path, **fields: Any) -> None:
    """Set fields of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def refusal(folder: Path) -> str:
    """The one line a checkpoint is refused with."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_whole_checkpoint_opens_and_tensors_are_read_in_slices(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    weights = Weights(checkpoint, torch.float32, torch.device("cpu"))
    whole = weights.read(HEAD)
    parts = weights.read(HEAD, rows=[(2, 5), (9, 10)], columns=(1, 4))
    assert torch.equal(parts, torch.cat([whole[2:5, 1:4], whole[9:10, 1:4]]))
    assert whole.dtype == torch.float32


def test_a_missing_tensor_is_named_with_its_file(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    change_shard(file, lambda tensors: tensors.pop(WORDS))
    line = refusal(folder)
    assert file.name in line
    assert WORDS in line
    assert "missing" in line


def test_a_surplus_tensor_is_named_with_its_file(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    change_shard(file, lambda tensors: tensors.update({"lora.weight": torch.zeros(1)}))
    line = refusal(folder)
    assert file.name in line
    assert "lora.weight" in line


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    file = shard_of(folder, HEAD)
    change_shard(file, lambda tensors: tensors.update({HEAD: torch.zeros(3, 5)}))
    line = refusal(folder)
    for part in (file.name, HEAD, "[3, 5]", "[320, 64]"):
        assert part in line


def test_a_truncated_shard_is_named_with_the_tensor_that_is_cut(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.write_bytes(file.read_bytes()[:-7])
    line = refusal(folder)
    assert file.name in line
    assert "truncated" in line
    assert "transformer." in line


def test_a_shard_without_a_whole_header_is_truncated(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    for size in (0, 5, 40):
        file.write_bytes(file.read_bytes()[:size])
        assert f"{file.name}: truncated" in refusal(folder)


def test_a_shard_that_is_something_else_says_so(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.write_bytes((20).to_bytes(8, "little") + b"x" * 100)
    assert f"{file.name}: not a safetensors file" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.unlink()
    line = refusal(folder)
    assert file.name in line
    assert "no such file" in line


def test_an_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][WORDS] = "../secret"
    path.write_text(json.dumps(index))
    assert "not a plain name" in refusal(folder)


def test_the_other_glm4v_is_refused_by_name(folder: Path) -> None:
    change_config(folder, model_type="glm4v", architectures=["Glm4vForConditionalGeneration"])
    assert "GLM-4.1V" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"vision_config": None}, "text-only"),
        ({"post_layer_norm": False}, "post_layer_norm"),
        ({"num_layers": None}, "num_layers"),
        ({"hidden_size": "wide"}, "wide"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"boi_token_id": 3}, "boi_token_id"),
        ({"num_layers": 3}, "encoder.layers.2"),
    ],
)
def test_a_configuration_that_does_not_fit_names_the_field(
    folder: Path, fields: dict[str, Any], named: str
) -> None:
    change_config(folder, **fields)
    assert named in refusal(folder)


def test_a_folder_without_a_checkpoint_says_what_is_missing(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path)
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_other_weights_have_another_fingerprint(folder: Path) -> None:
    before = Checkpoint.open(folder).fingerprint
    assert Checkpoint.open(folder).fingerprint == before
    change_shard(shard_of(folder, HEAD), lambda tensors: tensors[HEAD].mul_(1.5))
    assert Checkpoint.open(folder).fingerprint != before
