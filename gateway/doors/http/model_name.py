"""The names by which requests may ask for the model."""

from glm4v.errors import UnknownReference
from glm4v.v1 import inference_pb2 as api

# What huggingface_hub and text-generation send where their user names no model.
_ANY = frozenset({"dummy", "tgi"})
_SHOWN = 80  # characters of a name in an error


class UnknownModel(UnknownReference):
    """A model that this gateway does not serve."""


def check_model(name: str | None, model: api.GetModelResponse) -> None:
    """Raise UnknownModel for another name than the model's; a request need not have one."""
    if name and name not in _ANY and name != model.name:
        raise UnknownModel(f"the model {name[:_SHOWN]!r} is not served; {model.name!r} is")
