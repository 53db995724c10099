"""`glm4v precision`: its subcommands."""

import typer

from precision.gate_command import gate
from precision.predict_command import predict

command = typer.Typer(
    no_args_is_help=True, help="Caption images, score captions, compare two systems."
)

command.command()(predict)
command.command()(gate)


@command.callback()
def precision() -> None:
    """Caption images, score captions, compare two systems."""
