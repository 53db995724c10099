"""An operator's arguments by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def bind(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What each argument of the schema is in this call, defaults included."""
    bound = {
        argument.name: argument.default_value
        for argument in func._schema.arguments
        if argument.has_default_value()
    }
    names = [argument.name for argument in func._schema.arguments if not argument.kwarg_only]
    return bound | dict(zip(names, args, strict=False)) | dict(kwargs)
