"""The environment variables GLM4V_<NAME> of all processes, and the settings read from them."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError

from glm4v.errors import ConfigurationError
from glm4v.process.renamed_settings import RENAMED, RENAMED_VALUES, SYNONYMS
from glm4v.process.service_links import is_service_link
from glm4v.process.settings import (
    PREFIX,
    GatewaySettings,
    LmSettings,
    ServiceSettings,
    VisionSettings,
)

PROCESSES: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "vision worker": VisionSettings,
    "language worker": LmSettings,
}
# Variables with our prefix that other programs read.
OTHER_VARIABLES = {
    "GLM4V_API_KEY": "API key of `glm4v ask`, attach and cancel; a gateway reads GLM4V_API_KEYS",
    "GLM4V_API_KEY_FILE": "file with that key",
    "GLM4V_DEBUG": "1 shows the traceback of an unexpected error",
    "GLM4V_DEMO_CACHE": "download cache of the demo model's recipe",
}

_S = TypeVar("_S", bound=ServiceSettings)


def read_settings(kind: type[_S], overrides: Mapping[str, str] | None = None) -> _S:
    """The settings of one process from its environment; `overrides` take precedence.

    Raises ConfigurationError with one line: the variable, its value, what is allowed. An unknown
    variable with our prefix is an error too, unless the platform set it.
    """
    _check_names({**os.environ, **(overrides or {})})
    fields = {variable_of(name): name for name in kind.model_fields}
    values: dict[str, Any] = {fields[k]: v for k, v in (overrides or {}).items() if k in fields}
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            reason = f"is not set; it is the {kind.model_fields[name].description}"
        else:
            reason = f"is {first['input']!r}: {first['msg']}"
            if new := RENAMED_VALUES.get((name.upper(), str(first["input"]))):
                reason += f"; did you mean {new}?"
        raise ConfigurationError(f"{variable_of(name)} {reason}") from None


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def _check_names(environment: Mapping[str, str]) -> None:
    known = {variable_of(name) for kind in PROCESSES.values() for name in kind.model_fields}
    for variable in sorted(environment):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or name in OTHER_VARIABLES:
            continue
        if not is_service_link(variable, environment):
            hint = _suggestion(name.removeprefix(PREFIX), known)
            raise ConfigurationError(f"unknown setting {variable}{hint} (glm4v settings lists all)")


def _suggestion(word: str, known: set[str]) -> str:
    exact = {**SYNONYMS, **RENAMED}.get(word)
    names = [name.removeprefix(PREFIX) for name in known]
    close = [exact] if exact else get_close_matches(word, names, 1)
    return f"; did you mean {PREFIX}{close[0]}?" if close else ""
