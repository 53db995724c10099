"""How tokens are chosen: what the request sets, what the checkpoint says, what is allowed."""

import json
from dataclasses import dataclass
from pathlib import Path

from gateway.ranges import check_range
from glm4v.errors import CheckpointError, InvalidRequest
from glm4v.internal.v1 import journal_pb2
from glm4v.v1 import inference_pb2 as api

# Values of generation_config.json of THUDM/glm-4v-9b, for a checkpoint that comes without one.
_TEMPERATURE = 0.8
_TOP_P = 0.8


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What holds where a request is silent; everything else is off."""

    temperature: float  # 0 is greedy
    top_p: float

    def as_params(self) -> api.SamplingParams:
        """The defaults as a caller would write them."""
        return api.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0,
            repetition_penalty=1.0,
            min_p=0.0,
            typical_p=1.0,
            frequency_penalty=0.0,
            presence_penalty=0.0,
        )


def read_defaults(model_dir: Path) -> SamplingDefaults:
    """Read generation_config.json, which may be absent; raises CheckpointError."""
    path = model_dir / "generation_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        temperature = float(config.get("temperature", _TEMPERATURE))
        top_p = float(config.get("top_p", _TOP_P))
        if config.get("do_sample") is False:
            temperature = 0.0
    except FileNotFoundError:
        return SamplingDefaults(_TEMPERATURE, _TOP_P)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a generation configuration: {error}") from None
    defaults = SamplingDefaults(temperature, top_p)
    try:
        resolve(defaults.as_params(), defaults, seed=0)
    except InvalidRequest as error:
        raise CheckpointError(f"{path}: {error}") from None
    return defaults


def resolve(
    params: api.SamplingParams, defaults: SamplingDefaults, *, seed: int
) -> journal_pb2.Sampling:
    """Fill in defaults; `seed` is taken unless one is set. Raises InvalidRequest."""
    temperature = params.temperature if params.HasField("temperature") else defaults.temperature
    top_p = params.top_p if params.HasField("top_p") else defaults.top_p
    penalty = params.repetition_penalty if params.HasField("repetition_penalty") else 1.0
    typical_p = params.typical_p if params.HasField("typical_p") else 1.0
    check_range("sampling.temperature", temperature, 0, 10)
    check_range("sampling.top_p", top_p, 0, 1, above=True)
    check_range("sampling.repetition_penalty", penalty, 0.1, 10)
    check_range("sampling.min_p", params.min_p, 0, 1)
    check_range("sampling.typical_p", typical_p, 0, 1, above=True)
    check_range("sampling.frequency_penalty", params.frequency_penalty, -2, 2)
    check_range("sampling.presence_penalty", params.presence_penalty, -2, 2)
    return journal_pb2.Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=params.top_k,
        repetition_penalty=penalty,
        seed=params.seed if params.HasField("seed") else seed,
        min_p=params.min_p,
        typical_p=typical_p,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=params.logit_bias,
    )
