"""Sampling parameters of a request: its own, the checkpoint's defaults, and the allowed ranges."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from gateway.admission.validation import check_range
from glm4v.checkpoint.generation_config import GenerationConfig, read_generation_config
from glm4v.errors import CheckpointError, InvalidRequest
from glm4v.v1 import inference_pb2 as api

log = logging.getLogger(__name__)


class _Range(NamedTuple):
    low: float
    high: float
    off: float  # the value that changes nothing
    above: bool = False  # `low` itself is not allowed
    random: bool = False  # greedy decoding ignores it


_RANGES = {
    "temperature": _Range(0, 10, off=0),
    "top_p": _Range(0, 1, off=1, above=True, random=True),
    "top_k": _Range(0, 2**32 - 1, off=0, random=True),
    "repetition_penalty": _Range(0.1, 10, off=1),
    "min_p": _Range(0, 1, off=0, random=True),
    "typical_p": _Range(0, 1, off=1, above=True, random=True),
    "frequency_penalty": _Range(-2, 2, off=0),
    "presence_penalty": _Range(-2, 2, off=0),
}


class SamplingDefaults(NamedTuple):
    """What a request gets where it sets nothing."""

    params: api.SamplingParams  # all but the seed
    max_tokens: int | None = None


def read_defaults(model_dir: Path) -> SamplingDefaults:
    """The checkpoint's own defaults, as `generate()` of transformers takes them.

    Raises CheckpointError for values that no request may have.
    """
    config = read_generation_config(model_dir)
    try:
        if config.max_new_tokens is not None:
            check_range("max_new_tokens", config.max_new_tokens, 1, 2**31)
        params = _default_params(config)
    except (InvalidRequest, ValueError) as error:  # ValueError: no uint32
        raise CheckpointError(f"{config.path}: {error}") from None
    if config.not_applied:
        log.warning("%s: ignored: %s", config.path, ", ".join(config.not_applied))
    return SamplingDefaults(params, config.max_new_tokens)


def _default_params(config: GenerationConfig) -> api.SamplingParams:
    """Greedy decoding of `generate()` ignores some fields, so they may have any value."""
    values: dict[str, Any] = {}
    for name, allowed in _RANGES.items():
        value = getattr(config, name, allowed.off)
        if not config.do_sample and name == "temperature":
            value = 0.0
        try:
            check_range(name, value, allowed.low, allowed.high, above=allowed.above)
        except InvalidRequest:
            if config.do_sample or not allowed.random:
                raise
            value = allowed.off
        values[name] = value
    return api.SamplingParams(**values)


def resolve(
    params: api.SamplingParams, defaults: api.SamplingParams, *, seed: int
) -> api.SamplingParams:
    """`params` with the defaults filled in, and `seed` unless it is set. Raises InvalidRequest."""
    resolved = api.SamplingParams(seed=seed)
    resolved.MergeFrom(defaults)
    resolved.MergeFrom(params)
    for name, allowed in _RANGES.items():
        value = getattr(resolved, name)
        check_range(f"sampling.{name}", value, allowed.low, allowed.high, above=allowed.above)
    return resolved
