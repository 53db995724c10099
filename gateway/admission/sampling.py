"""How tokens are chosen: what the request sets, what the checkpoint says, what is allowed."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.admission.validation import check_range
from glm4v.checkpoint.generation_config import GenerationConfig, read_generation_config
from glm4v.errors import CheckpointError, InvalidRequest
from glm4v.internal.v1 import journal_pb2
from glm4v.v1 import inference_pb2 as api

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What holds where a request is silent; frequency and presence penalty are off."""

    temperature: float  # 0 is greedy
    top_p: float
    top_k: int = 0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    max_tokens: int | None = None

    def as_params(self) -> api.SamplingParams:
        """The defaults as a caller would write them."""
        return api.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            min_p=self.min_p,
            typical_p=self.typical_p,
            frequency_penalty=0.0,
            presence_penalty=0.0,
        )


def read_defaults(model_dir: Path) -> SamplingDefaults:
    """The checkpoint's own defaults, as `generate()` of transformers takes them.

    Raises CheckpointError for values that no request may have.
    """
    config = read_generation_config(model_dir)
    draws = config if config.do_sample else _without_what_nobody_looks_at(config)
    defaults = SamplingDefaults(
        temperature=draws.temperature,
        top_p=draws.top_p,
        top_k=draws.top_k,
        repetition_penalty=config.repetition_penalty,
        min_p=draws.min_p,
        typical_p=draws.typical_p,
        max_tokens=config.max_new_tokens,
    )
    try:
        check_range("top_k", draws.top_k, 0, 2**31)
        if config.max_new_tokens is not None:
            check_range("max_new_tokens", config.max_new_tokens, 1, 2**31)
        resolve(defaults.as_params(), defaults, seed=0)
    except InvalidRequest as error:
        raise CheckpointError(f"{config.path}: {error}") from None
    if config.not_applied:
        log.warning("%s: not applied here: %s", config.path, ", ".join(config.not_applied))
    return defaults


def _without_what_nobody_looks_at(config: GenerationConfig) -> GenerationConfig:
    """A greedy configuration; `generate()` draws by none of these, and takes any value in them."""
    return replace(
        config,
        temperature=0.0,
        top_p=config.top_p if 0 < config.top_p <= 1 else 1.0,
        top_k=max(config.top_k, 0),
        min_p=config.min_p if 0 <= config.min_p <= 1 else 0.0,
        typical_p=config.typical_p if 0 < config.typical_p <= 1 else 1.0,
    )


def resolve(
    params: api.SamplingParams, defaults: SamplingDefaults, *, seed: int
) -> journal_pb2.Sampling:
    """Fill in defaults; `seed` is taken unless one is set. Raises InvalidRequest."""
    chosen = defaults.as_params()
    chosen.MergeFrom(params)
    check_range("sampling.temperature", chosen.temperature, 0, 10)
    check_range("sampling.top_p", chosen.top_p, 0, 1, above=True)
    check_range("sampling.repetition_penalty", chosen.repetition_penalty, 0.1, 10)
    check_range("sampling.min_p", chosen.min_p, 0, 1)
    check_range("sampling.typical_p", chosen.typical_p, 0, 1, above=True)
    check_range("sampling.frequency_penalty", chosen.frequency_penalty, -2, 2)
    check_range("sampling.presence_penalty", chosen.presence_penalty, -2, 2)
    return journal_pb2.Sampling(
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        repetition_penalty=chosen.repetition_penalty,
        seed=chosen.seed if chosen.HasField("seed") else seed,
        min_p=chosen.min_p,
        typical_p=chosen.typical_p,
        frequency_penalty=chosen.frequency_penalty,
        presence_penalty=chosen.presence_penalty,
        logit_bias=chosen.logit_bias,
    )
