"""The compose files, read as `docker compose` reads them."""

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")


class _Loader(yaml.SafeLoader):
    """Knows the tag !override of compose 2.24 and newer: replace a list instead of adding to it."""


def _override(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.SequenceNode), "only lists are replaced here"
    return loader.construct_sequence(node)


_Loader.add_constructor("!override", _override)


@cache
def read(name: str) -> dict[str, Any]:
    """One file, its anchors resolved and its variables not."""
    found = yaml.load((FOLDER / name).read_text(encoding="utf-8"), _Loader)
    assert isinstance(found, dict)
    return found


def schema() -> dict[str, Any]:
    """The Compose Specification's, as check-jsonschema carries it."""
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    found = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def substituted(text: str, **variables: str) -> str:
    """`text` with its variables, or their defaults, in place. Raises KeyError where one is due."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        return variables[name] if default is None else variables.get(name) or default

    return _VARIABLE.sub(value, text)


def environment(service: str, **variables: str) -> dict[str, str]:
    """What a process of compose.yaml gets."""
    listed = read("compose.yaml")["services"][service]["environment"]
    return {name: substituted(value, **variables) for name, value in listed.items()}
