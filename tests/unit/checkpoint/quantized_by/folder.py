"""Small whole checkpoints whose matrices other tools quantized."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from glm4v.checkpoint.tiny import write_checkpoint

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = json.loads((HERE / "cases.json").read_text())
SIZES = {
    "hidden_size": 32, "num_attention_heads": 4, "kv_channels": 8, "ffn_hidden_size": 96,
    "num_layers": 1, "padded_vocab_size": 288,
}  # fmt: skip
VISION_SIZES = {
    "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 64, "image_size": 56,
    "num_positions": 17,
}  # fmt: skip


def write_dense(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint in bfloat16 of the sizes that the recipe quantized; its tensors."""
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    config |= SIZES
    config["vision_config"] |= VISION_SIZES
    write_checkpoint(config, 1, None, folder)
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
    return tensors


def write_case(name: str, folder: Path) -> Path:
    """The same with the matrices of a case as its tool wrote them."""
    tensors = write_dense(folder)
    for path in folder.glob("model*"):
        path.unlink()
    case = CASES[name]
    for matrix in case["dequantized"]:
        del tensors[f"{matrix}.weight"]
    tensors |= load_file(HERE / f"{name}.safetensors")
    if "config" in case:
        change_json(folder / "config.json", case["config"])
        save_file(tensors, folder / "model.safetensors")
    elif "quantize_config" in case:
        (folder / "quantize_config.json").write_text(json.dumps(case["quantize_config"]))
        base = case["quantize_config"]["model_file_base_name"]
        save_file(tensors, folder / f"{base}.safetensors")
    else:
        description = dict.fromkeys(tensors, "FLOAT") | case["quant_model_description"]
        (folder / "quant_model_description.json").write_text(json.dumps(description))
        part = "quant_model_weights-00001-of-00001.safetensors"
        save_file(tensors, folder / part)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, part)}
        (folder / "quant_model_weights.safetensors.index.json").write_text(json.dumps(index))
    return folder


def change_json(path: Path, fields: dict[str, Any]) -> None:
    """Set fields of a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
