"""`glm4v doctor`: what this machine has, and what is missing for which process."""

import dataclasses
import json as json_format
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import glm4v

if TYPE_CHECKING:
    from glm4v.doctor.report import Missing, Report

_CANNOT_SERVE = 2
_COLUMN = 10


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Say what this machine has, and what is missing for which process, with what mends it.

    Takes some seconds. Exit code 0 if the default device can serve, else 2.
    """
    from glm4v.doctor.examination import examine
    from glm4v.doctor.system import System

    report = examine(System())
    if json:
        typer.echo(json_format.dumps(_as_json(report), ensure_ascii=False))
    else:
        typer.echo("\n".join(_screen(report)))
    if not report.can_serve:
        raise typer.Exit(_CANNOT_SERVE)


def _as_json(report: "Report") -> dict[str, object]:
    from glm4v.doctor.report import EVERY_PROCESS

    return {
        "version": glm4v.__version__,
        "python": platform.python_version(),
        "can_serve": report.can_serve,
        "default_device": report.default_device,
        "facts": report.facts,
        "processes": {
            process: {device: report.can_run(process, device) for device in report.devices}
            for process in EVERY_PROCESS
        },
        "missing": [dataclasses.asdict(each) for each in report.missing],
        "advice": [dataclasses.asdict(each) for each in report.advice],
    }


def _screen(report: "Report") -> Iterator[str]:
    yield f"glm4v-serve {glm4v.__version__}, Python {platform.python_version()} ({sys.executable})"
    yield ""
    for area, lines in report.facts.items():
        for number, line in enumerate(lines):
            yield f"{'' if number else area:<{_COLUMN}}{line}"
    yield ""
    yield from _table(report)
    yield from _list("Missing", report.missing)
    yield from _list("Better with", report.advice)
    yield ""
    if report.can_serve:
        yield f"The default device, {report.default_device}, can serve."
    else:
        device = report.default_device or "none that works"
        yield f"This machine cannot serve yet (default device: {device})."


def _table(report: "Report") -> Iterator[str]:
    """Which process can run on which device."""
    from glm4v.doctor.report import EVERY_PROCESS, WORKERS

    width = max(map(len, EVERY_PROCESS)) + 2
    yield " " * width + "".join(f"{device:<{_COLUMN}}" for device in report.devices)
    for process in EVERY_PROCESS:
        devices = list(report.devices)
        if process not in WORKERS:
            devices = devices[:1]  # it uses none
        cells = ("ok" if report.can_run(process, device) else "missing" for device in devices)
        yield f"{process:<{width}}" + "".join(f"{cell:<{_COLUMN}}" for cell in cells)


def _list(title: str, entries: "list[Missing]") -> Iterator[str]:
    if not entries:
        return
    yield ""
    yield f"{title}:"
    for each in entries:
        place = f" on {each.device}" if each.device else ""
        yield f"- {each.what} ({', '.join(each.processes)}{place})"
        yield f"  {each.fix}"
