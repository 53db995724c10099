"""`glm4v settings`: the environment variables of all processes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_COLUMNS = ("variable", "default", "unit", "for", "meaning")
_WIDTH = 160  # if the output is not a terminal
_COMMAND = "tools"


def settings() -> None:
    """List the GLM4V_… variables: default, unit, process, meaning."""
    from rich.console import Console  # only this subcommand needs it, and the settings
    from rich.table import Table

    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in _rows():
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table, highlight=False, markup=False)


def _rows() -> list[tuple[str, ...]]:
    """One row for each setting, or for each of its defaults if processes differ."""
    from glm4v.process.environment import OTHER_VARIABLES, PROCESSES, variable_of
    from glm4v.process.settings import ServiceSettings

    readers: dict[tuple[str, str, str, str], list[str]] = {}
    for process, kind in PROCESSES.items():
        for name, field in kind.model_fields.items():
            base = ServiceSettings.model_fields.get(name, field)
            meaning = field.description or base.description or ""
            row = (variable_of(name), _default(field), _unit(field), meaning)
            readers.setdefault(row, []).append(process)
    everyone = list(PROCESSES)
    rows = [
        (variable, default, unit, "all" if who == everyone else ", ".join(who), meaning)
        for (variable, default, unit, meaning), who in readers.items()
    ]
    return [*rows, *((name, "", "", _COMMAND, text) for name, text in OTHER_VARIABLES.items())]


def _default(field: "FieldInfo") -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    secret = getattr(value, "get_secret_value", None)  # a default is not secret
    value = secret() if secret else value
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _unit(field: "FieldInfo") -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""
