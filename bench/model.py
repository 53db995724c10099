"""A medium checkpoint with random weights, for measurements without a real one."""

import json
from importlib import resources
from pathlib import Path

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
    "image_size": 448,
    "num_positions": 1025,
}


def write_medium(out: Path) -> None:
    """Write it to `out`; its vocabulary is the 256 bytes. Raises as `write_checkpoint`."""
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    config |= _LANGUAGE
    config["vision_config"] |= _VISION
    write_checkpoint(config, _SEED, None, out)
