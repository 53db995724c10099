"""The file of a load: a line about it, then a line for each request.

All lines are JSON objects. The first has `"kind": "glm4v bench serve"` and what was measured where;
the others have the fields of `Measurement`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.serve.measurement import Measurement
from glm4v.errors import InvalidRequest

KIND = "glm4v bench serve"


def write_results(
    path: Path, about: Mapping[str, Any], measurements: Sequence[Measurement]
) -> None:
    """Write the file, and its folder. Raises InvalidRequest if that fails."""
    lines = [{"kind": KIND, **about}, *(asdict(each) for each in measurements)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None


def read_results(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """What was measured, and its requests. Raises InvalidRequest for another or a torn file."""
    try:
        head, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        about = json.loads(head)
        if about["kind"] != KIND:
            raise ValueError(about["kind"])
        found = [Measurement(**json.loads(line)) for line in lines]
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise InvalidRequest(f"{path} is no whole result file of `glm4v bench serve`") from None
    return about, found
