"""How much arithmetic a request is, and how fast this machine computes at best."""

import time

import torch

from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import DeviceOptions, open_device

_SIDE = 2048  # of the matrices whose product is timed: they fill the caches, and hide the start
_PRODUCTS = 12


def vision_flop(spec: ModelSpec) -> float:
    """Multiplications and additions for one image, products alone."""
    vision, hidden = spec.vision, spec.hidden_size
    rows, width = vision.positions, vision.hidden_size
    layer = rows * width * (4 * width + 2 * vision.mlp_size) + 2 * rows * rows * width
    pixels = 3 * vision.patch_size**2
    grid = vision.grid**2 * pixels * width + vision.patch_rows * 4 * width * hidden
    adapter = vision.patch_rows * (hidden * hidden + 3 * hidden * spec.ffn_size)
    return 2.0 * (vision.layers * layer + grid + adapter)


def language_flop(spec: ModelSpec, prompt: int, answer: int) -> float:
    """The same for a prompt and an answer of so many tokens.

    The last token is not computed, and of a prompt only the last one needs all of the last layer.
    """
    computed = prompt + answer - 1
    attended = spec.heads * spec.head_dim
    qkv = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    mlp = 3 * spec.hidden_size * spec.ffn_size
    weights = spec.hidden_size * (qkv + attended) + mlp
    context = computed * (computed + 1) / 2  # each token attends to itself and those before
    layers = spec.layers * (computed * weights + 2 * context * attended)
    layers -= (prompt - 1) * (mlp + spec.hidden_size * attended)
    return 2.0 * (layers + answer * spec.hidden_size * spec.vocab_size)


def request_flop(spec: ModelSpec, prompt: int, answer: int, *, image: bool) -> float:
    """Of a request with `prompt` tokens of text."""
    if not image:
        return language_flop(spec, prompt, answer)
    rows = prompt + spec.vision.num_image_tokens
    return vision_flop(spec) + language_flop(spec, rows, answer)


def matrix_rate() -> float:
    """The most operations a second in float32, of our kernels' products and of torch's."""
    device = open_device(DeviceOptions(dtype="float32", weight_dtype="float32"))
    matrix = torch.randn(_SIDE, _SIDE, device=device.torch_device)
    own = device.linear(matrix)
    best_s = float("inf")
    with torch.inference_mode():
        for multiply in (own, matrix.mm):
            for _ in range(_PRODUCTS):
                start = time.perf_counter()
                multiply(matrix)
                best_s = min(best_s, time.perf_counter() - start)
    return 2 * _SIDE**3 / best_s
