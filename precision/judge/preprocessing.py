"""How a judge's images must be prepared, which a file of weights does not say.

open_clip has it by the name of the download: other means and deviations, squeezed instead of
cropped. Weights from a file get what OpenAI's have, without a word, and so wrong scores where their
training differed. A folder with open_clip_config.json says it itself.
"""

from dataclasses import asdict
from types import ModuleType
from typing import Any

from glm4v.errors import ConfigurationError

_FIELDS = ("mean", "std", "interpolation", "resize_mode")


def check_preprocessing(open_clip: ModuleType, model: str) -> str:
    """A warning where some published weights of `model` need other images than a file gets; or "".

    Raises ConfigurationError where all of them do.
    """
    from open_clip.transform import PreprocessCfg

    tags = open_clip.list_pretrained_tags_by_model(model)
    usual = asdict(PreprocessCfg())
    others = [tag for tag in tags if _differs(open_clip.get_pretrained_cfg(model, tag), usual)]
    if not others:
        return ""
    if len(others) == len(tags):
        raise ConfigurationError(
            f"weights of {model} need images prepared in another way than open_clip prepares them "
            "for a file of weights: give local-dir:FOLDER, whose open_clip_config.json says how"
        )
    return (
        f"if these weights of {model} are {' or '.join(others)}, images are prepared wrongly: give "
        "local-dir:FOLDER, whose open_clip_config.json says how"
    )


def _differs(of_tag: dict[str, Any], usual: dict[str, Any]) -> bool:
    return any(_plain(of_tag.get(name, usual[name])) != _plain(usual[name]) for name in _FIELDS)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
