"""Checkpoints with random weights in the layout of THUDM/glm-4v-9b, for demos and tests.

A tensor depends on the seed, its name and its shape alone, so a checkpoint can be built again bit
for bit anywhere. The factors keep activations of a deep random model in a useful range.
"""

import base64
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tensor_shapes import OPTIONAL_TENSOR, expected_tensors
from glm4v.checkpoint.vocabulary import SPECIAL_TOKENS
from glm4v.errors import InvalidRequest

TINY_SEED = 20240606

Values = np.ndarray[tuple[int], np.dtype[np.float32]]
Draw = Callable[[int, int], Values]

# A checkpoint is cut where a file would grow beyond this part of the whole, or this size.
_FILE_PARTS = 3
_FILE_BYTES = 2 * 10**9

# Names end with -> factor of the random values; the first that fits is taken.
_FACTORS = (
    ("layernorm.weight", 0.1),
    ("norm1.weight", 0.1),
    (".bias", 0.1),
    ("boi", 4.0),
    ("eoi", 4.0),
    ("cls_embedding", 0.5),
    ("position_embedding.weight", 0.5),
    ("word_embeddings.weight", 0.5),
)
# The same for all others, which are divided by the root of their inputs besides.
_GAINS = (
    ("query_key_value.weight", 1.5),
    ("linear_proj.dense_4h_to_h.weight", 32.0),
    ("output_layer.weight", 2.0),
)


def write_tiny(out: Path, *, seed: int = TINY_SEED) -> None:
    """Write half a megabyte of checkpoint: bytes as vocabulary, 112 pixels, 16 image rows.

    Raises InvalidRequest when `out` holds a checkpoint already or cannot be written.
    """
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    write_checkpoint(config, seed, None, out)


def draw_normal(seed: int, count: int) -> Values:
    """Normally distributed values, the same for a seed everywhere."""
    return np.random.RandomState(seed).standard_normal(count).astype(np.float32)


def write_checkpoint(
    config: dict[str, Any],
    seed: int,
    tokenizer: bytes | None,
    out: Path,
    draw: Draw = draw_normal,
) -> None:
    """Write a checkpoint of the configuration `config` (the content of a config.json) to `out`.

    `tokenizer` is the content of tokenizer.model; None for one whose words are the 256 bytes.
    `draw` gives the values of a tensor, from a seed of its own and their number. The files appear
    in `out` when all are written, config.json last; what an interrupted run left is removed.
    Raises CheckpointError for a configuration that cannot be served, InvalidRequest when `out`
    holds a checkpoint already or cannot be written.
    """
    if (out / "config.json").exists():
        raise InvalidRequest(f"{out} holds a checkpoint already; choose another folder")
    unfinished = out / ".unfinished"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_json(unfinished / "config.json", config)
        spec = read_spec(unfinished)
        (unfinished / "tokenizer.model").write_bytes(tokenizer or _byte_vocabulary())
        write_tokenizer_config(spec, unfinished)
        _write_weights(spec, seed, unfinished, draw)
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(out / path.name)
        unfinished.rmdir()
    except OSError as error:
        raise InvalidRequest(
            f"{out} cannot be written ({error.strerror}); choose another folder"
        ) from error


def write_tokenizer_config(spec: ModelSpec, out: Path) -> None:
    """Write what stands beside tokenizer.model: the special tokens, and how answers are drawn."""
    _write_json(
        out / "generation_config.json",
        {
            "eos_token_id": list(spec.eos_ids),
            "pad_token_id": spec.first_special_id,
            "do_sample": True,
            "temperature": 0.8,
            "top_p": 0.8,
            "max_length": 8192,
        },
    )
    _write_json(
        out / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                str(number): _added_token(token)
                for number, token in enumerate(SPECIAL_TOKENS, spec.first_special_id)
            },
            "additional_special_tokens": list(SPECIAL_TOKENS),
            "clean_up_tokenization_spaces": False,
            "do_lower_case": False,
            "eos_token": SPECIAL_TOKENS[0],
            "pad_token": SPECIAL_TOKENS[0],
            "model_max_length": 8192,
            "padding_side": "left",
            "remove_space": False,
            "tokenizer_class": "ChatGLM4Tokenizer",
            "image_size": spec.vision.image_size,
        },
    )


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _byte_vocabulary() -> bytes:
    """A tokenizer.model, a line `base64(token) rank` for each byte."""
    return b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))


def _write_weights(spec: ModelSpec, seed: int, out: Path, draw: Draw) -> None:
    """The weight files one after the other, then their index."""
    files = list(_files(spec))
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {
            tensor: _rotary_buffer(spec)
            if tensor == OPTIONAL_TENSOR
            else _values(tensor, shape, seed, draw)
            for tensor, shape in shapes.items()
        }
        save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(_stored_bytes(shape) for shapes in files for shape in shapes.values())
    _write_json(
        out / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def _files(spec: ModelSpec) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of each weight file with their shapes."""
    shapes = dict(expected_tensors(spec))
    most = min(sum(map(_stored_bytes, shapes.values())) // _FILE_PARTS, _FILE_BYTES)
    file: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if file and size + _stored_bytes(shape) > most:
            yield file
            file, size = {}, 0
        file[name] = shape
        size += _stored_bytes(shape)
    yield file


def _stored_bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * torch.bfloat16.itemsize


def _values(name: str, shape: tuple[int, ...], seed: int, draw: Draw) -> torch.Tensor:
    """Normally distributed values, by a generator of the tensor's own."""
    state = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "little")
    drawn = draw(state, math.prod(shape))
    drawn *= np.float32(_factor(name, shape))
    if name.endswith(("layernorm.weight", "norm1.weight")):
        drawn += np.float32(1)
    return torch.from_numpy(drawn).view(shape).to(torch.bfloat16)


def _factor(name: str, shape: tuple[int, ...]) -> float:
    for end, factor in _FACTORS:
        if name.endswith(end):
            return factor
    gain = next((gain for end, gain in _GAINS if name.endswith(end)), 1.0)
    return gain / math.sqrt(math.prod(shape[1:]))


def _rotary_buffer(spec: ModelSpec) -> torch.Tensor:
    """The frequencies the original keeps among its weights; readers do not need them."""
    pairs = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32) / spec.rotary_dim
    return (1.0 / spec.rope_base**pairs).to(torch.bfloat16)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
