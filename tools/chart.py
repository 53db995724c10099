"""Writes what the chart repeats: `python -m tools.chart`, for `make chart`.

The settings of the processes into its schema, and its values into a table of its README.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from glm4v.process.environment import PROCESSES, variable_of

CHART = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "glm4v"
README, SCHEMA = CHART / "README.md", CHART / "values.schema.json"
COMPONENTS = {"gateway": "gateway", "vision": "vision worker", "language": "language worker"}
# What values of the chart set; a setting could contradict them.
SET_BY_VALUES = {
    "model", "namespace", "redis_url", "embeddings_redis_url", "redis_username", "redis_password",
    "listen", "health_listen", "http_listen", "metrics_listen", "drain_timeout_s", "tls_cert",
    "tls_key", "tls_client_ca", "api_keys", "allow_anonymous", "device", "tensor_parallel",
}  # fmt: skip
_KEPT = ("enum", "minimum", "maximum", "exclusiveMinimum")
START, END = "<!-- values: written by `make chart` -->\n", "<!-- end of values -->\n"
_WHOLE = ("resources", "image", "settings")  # shown as one row


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with the settings of each process, whatever it had before."""
    for component, process in COMPONENTS.items():
        described = PROCESSES[process].model_json_schema()["properties"]
        schema["properties"][component]["properties"]["settings"] = {
            "type": "object",
            "description": f"settings of {process}s, as `glm4v settings` lists them",
            "additionalProperties": False,
            "properties": {
                variable_of(name): _setting(field)
                for name, field in described.items()
                if name not in SET_BY_VALUES
            },
        }
    return schema


def _setting(field: dict[str, Any]) -> dict[str, Any]:
    """One that may be None has no single type, and is text."""
    found = {"type": field.get("type", "string"), "description": field.get("description", "")}
    return found | {word: field[word] for word in _KEPT if word in field}


def table() -> str:
    """One row for each value: name, default, meaning."""
    schema = json.loads(SCHEMA.read_bytes())
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    rows = ["| value | default | meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | {default} | {text} |" for name, default, text in _rows(schema, values)]
    return "\n".join(rows) + "\n"


def _rows(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Raises KeyError for a value that the schema does not know."""
    for name, value in values.items():
        below, where = schema["properties"][name], f"{path}{name}"
        is_table = isinstance(value, dict) and "properties" in below
        if is_table and (name not in _WHOLE or not path):
            yield from _rows(below, value, f"{where}.")
        else:
            yield where, _shown(value), below["description"].replace("|", "\\|")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "" if value in ("", {}, []) else f"`{text.strip(chr(34))}`"


def with_table(text: str) -> str:
    """The README with the table as it is to be."""
    before, _, rest = text.partition(START)
    return before + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    whole = with_settings(json.loads(SCHEMA.read_bytes()))
    SCHEMA.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
