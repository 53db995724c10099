"""The `glm4v` command: its subcommands, and how it reports errors."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

import glm4v
from glm4v.cli.ask import ask
from glm4v.cli.attach import attach
from glm4v.cli.cancel import cancel
from glm4v.cli.dead import app as dead
from glm4v.cli.demo import demo
from glm4v.cli.doctor import doctor
from glm4v.cli.examples import examples
from glm4v.cli.explain import explain
from glm4v.cli.keys import app as keys
from glm4v.cli.quantize import quantize
from glm4v.cli.settings import settings
from glm4v.cli.tiny import tiny
from glm4v.cli.top import top
from glm4v.cli.up import up
from glm4v.cli.verify import verify
from glm4v.errors import Glm4vError
from glm4v.process.extras import EXTRAS, what_to_install
from glm4v.status import bounded

_COMMANDS: dict[str, Callable[..., None]] = {
    "up": up,
    "ask": ask,
    "attach": attach,
    "cancel": cancel,
    "demo": demo,
    "doctor": doctor,
    "examples": examples,
    "explain": explain,
    "quantize": quantize,
    "settings": settings,
    "tiny": tiny,
    "top": top,
    "verify": verify,
}
_PLUGINS = "glm4v.commands"  # entry points of packages that import this one
_USAGE_EXIT = 2
_EPILOG = (
    "Exit codes: 0 success, 1 unexpected error or aborted request, 2 wrong usage or configuration, "
    "3 invalid request, 4 unusable checkpoint, 5 unavailable, 6 overloaded or deadline exceeded, "
    "7 cancelled, 130 interrupted. GLM4V_DEBUG=1 prints the traceback of an unexpected error."
)


def run() -> None:
    """Run the subcommand that the arguments name. An error is one line and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals that cannot show Chinese
    try:
        build(sys.argv[1:])(prog_name="glm4v")
    except Glm4vError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        _fail(what_to_install(package, EXTRAS), _USAGE_EXIT)
    except Exception as error:
        what = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
        _fail(f"{what}; GLM4V_DEBUG=1 prints the traceback", Glm4vError.exit_code)


def build(arguments: list[str]) -> typer.Typer:
    """The command for these arguments. Packages above this one are imported only when needed."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=_EPILOG,
        help="A gRPC inference server for GLM-4V-9B: ask about an image, stream the answer.",
    )
    app.callback()(_options)
    for name, command in _COMMANDS.items():
        app.command(name)(command)
    app.add_typer(dead, name="dead")
    app.add_typer(keys, name="keys")
    requested = arguments[0] if arguments else "--help"
    for entry in {entry.name: entry for entry in entry_points(group=_PLUGINS)}.values():
        if requested == entry.name:
            _join(app, entry)
        elif requested == "--help":
            with contextlib.suppress(ModuleNotFoundError):  # not listed without its extra
                _join(app, entry)
    return app


def _join(app: typer.Typer, entry: EntryPoint) -> None:
    """Add the subcommand, or the group of subcommands, of an entry point."""
    plugin = entry.load()
    if isinstance(plugin, typer.Typer):
        app.add_typer(plugin, name=entry.name)
    else:
        app.command(entry.name)(plugin)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(glm4v.__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the command itself."""


def _fail(message: str, exit_code: int) -> None:
    if os.environ.get("GLM4V_DEBUG") == "1":
        traceback.print_exc()
    sys.stderr.write(f"glm4v: {bounded(message)}\n")
    sys.exit(exit_code)
