"""How a checkpoint says that it wants to be sampled: generation_config.json.

Source of every default: `GenerationConfig` and `generate()` of transformers 4.48.3. Where the file
is missing, the fields of the same names in config.json count, as there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v.checkpoint.files import read_json_object
from glm4v.errors import CheckpointError

_FILE = "generation_config.json"

# Fields that `generate()` applies and this project does not, with their values that change nothing.
_NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,),
    "constraints": (None,),
    "dola_layers": (None,),
    "encoder_repetition_penalty": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0),
    "sequence_bias": (None,),
    "stop_strings": (None,),
    "suppress_tokens": (None,),
    "watermarking_config": (None,),
}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What `generate()` does where its caller says nothing."""

    path: Path  # the file that was read
    do_sample: bool
    temperature: float
    top_k: int  # 0: off
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    max_new_tokens: int | None
    eos_ids: tuple[int, ...] | None  # None: not said here
    not_applied: tuple[str, ...]  # fields of the file that change nothing here


def read_generation_config(model_dir: Path) -> GenerationConfig:
    """Read generation_config.json, or config.json where there is none.

    Raises CheckpointError naming the field that does not fit.
    """
    path = model_dir / _FILE
    try:
        fields = read_json_object(path)
    except FileNotFoundError:
        path = model_dir / "config.json"
        try:
            fields = read_json_object(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; is this a GLM-4V checkpoint?") from None
    try:
        return _parse(path, fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: a field has the wrong type: {error}") from None


def _parse(path: Path, fields: Mapping[str, Any]) -> GenerationConfig:
    def number(name: str, default: float, off: float) -> float:
        """A field that is absent has its default; one that is null is off."""
        value = fields.get(name, default)
        return off if value is None else float(value)

    max_new_tokens = fields.get("max_new_tokens")
    return GenerationConfig(
        path=path,
        do_sample=bool(fields.get("do_sample")),
        temperature=number("temperature", 1, 1),
        top_k=int(number("top_k", 50, 0)),
        top_p=number("top_p", 1, 1),
        min_p=number("min_p", 0, 0),
        typical_p=number("typical_p", 1, 1),
        repetition_penalty=number("repetition_penalty", 1, 1),
        max_new_tokens=None if max_new_tokens is None else int(max_new_tokens),
        eos_ids=token_ids(fields.get("eos_token_id")) or None,
        not_applied=tuple(
            name for name, neutral in _NOT_APPLIED.items() if fields.get(name) not in neutral
        ),
    )


def token_ids(value: Any) -> tuple[int, ...]:
    """What `eos_token_id` has: a token id, a list of them, or nothing."""
    if value is None:
        return ()
    return tuple(int(i) for i in (value if isinstance(value, list) else [value]))
