"""A checkpoint with GLM-4V-9B's geometry and random weights: 13.9 thousand million of them."""

import json
from base64 import b64encode
from collections.abc import Callable
from importlib import resources
from itertools import chain, islice, product
from pathlib import Path

import torch

from glm4v.checkpoint.tiny import Values, write_checkpoint

_FIRST_SPECIAL = 151329  # the ids of special tokens begin here
# Source: config.json of THUDM/glm-4v-9b.
LANGUAGE = {
    "hidden_size": 4096,
    "num_layers": 40,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "ffn_hidden_size": 13696,
    "padded_vocab_size": 151552,
    "seq_length": 8192,
    "eos_token_id": [_FIRST_SPECIAL, 151336, 151338],
    "pad_token_id": _FIRST_SPECIAL,
    "boi_token_id": 151339,
    "eoi_token_id": 151340,
}
VISION = {
    "hidden_size": 1792,
    "num_hidden_layers": 63,
    "num_heads": 16,
    "intermediate_size": 15360,
    "image_size": 1120,
    "num_positions": 6401,
}
_WEIGHTS = 13.9e9
_SEED = 0


def write_whole(out: Path, show: Callable[[str], None]) -> None:
    """Write it to `out`, 28 GB. Raises as `write_checkpoint`.

    `show` hears how far it is.
    """
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    config |= LANGUAGE
    config["vision_config"] |= VISION
    drawn = 0

    def draw(seed: int, count: int) -> Values:
        nonlocal drawn
        values = torch.randn(count, generator=torch.Generator().manual_seed(seed)).numpy()
        before, drawn = drawn, drawn + count
        if int(20 * drawn / _WEIGHTS) > int(20 * before / _WEIGHTS):
            show(f"{100 * drawn / _WEIGHTS:.0f} % of the weights are drawn")
        return values

    write_checkpoint(config, _SEED, vocabulary(_FIRST_SPECIAL), out, draw)


def vocabulary(count: int) -> bytes:
    """A tokenizer.model of `count` tokens: all bytes, then pairs of them, then triples.

    A line `base64(token) rank` for each.
    """
    tokens = chain.from_iterable(product(range(256), repeat=length) for length in (1, 2, 3))
    ranked = enumerate(islice(tokens, count))
    return b"".join(b"%s %d\n" % (b64encode(bytes(token)), rank) for rank, token in ranked)
