"""Checkpoints with random weights, for measurements without a real one."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from bench.whole_model.checkpoint import LANGUAGE, VISION, vocabulary
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.checkpoint.tiny import write_checkpoint

_SEED = 0
# 112.5 million weights are read per token: larger than CPU caches, and quick to load.
_LANGUAGE = {
    "hidden_size": 768,
    "num_layers": 12,
    "num_attention_heads": 12,
    "kv_channels": 64,
    "ffn_hidden_size": 2560,
    "padded_vocab_size": 32768,
    "seq_length": 8192,
    "eos_token_id": [32500, 32507, 32509],
    "pad_token_id": 32500,
    "boi_token_id": 32510,
    "eoi_token_id": 32511,
}
_VISION = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_heads": 8,
    "intermediate_size": 2048,
}


_PATCH = 14  # pixels
_WORDS_PER_LAYER = 3789  # of GLM-4V-9B: its 151552 over 40 layers


def write_medium(out: Path, *, image_size: int = 448) -> None:
    """A middle-sized one, for images of so many pixels a side. Raises as `write_checkpoint`."""
    image = {"image_size": image_size, "num_positions": (image_size // _PATCH) ** 2 + 1}
    _write(_LANGUAGE, _VISION | image, out)


def write_spelling(out: Path) -> None:
    """The same with the demo model's words, which response formats need.

    Raises as `write_checkpoint`.
    """
    demo = json.loads((DEMO_MODEL / "config.json").read_bytes())
    names = ("eos_token_id", "pad_token_id", "boi_token_id", "eoi_token_id")
    special = {name: demo[name] for name in names}
    _write(_LANGUAGE | special, _VISION, out, (DEMO_MODEL / "tokenizer.model").read_bytes())


def write_wide(out: Path, layers: int) -> None:
    """One with the matrices of GLM-4V-9B, 0.47 GB for each of `layers` and 0.21 GB of the vision
    tower's beside it. Raises as `write_checkpoint`.
    """
    words = layers * _WORDS_PER_LAYER
    special = words - 268
    _write(
        LANGUAGE
        | {
            "num_layers": layers,
            "padded_vocab_size": words,
            "eos_token_id": [special, special + 7, special + 9],
            "pad_token_id": special,
            "boi_token_id": special + 10,
            "eoi_token_id": special + 11,
        },
        VISION | {"num_hidden_layers": max(1, layers * 63 // 40)},
        out,
    )


def _write(
    language: dict[str, Any], vision: dict[str, Any], out: Path, tokenizer: bytes | None = None
) -> None:
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    config |= language
    config["vision_config"] |= vision
    write_checkpoint(config, _SEED, tokenizer or vocabulary(config["pad_token_id"]), out)
