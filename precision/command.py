"""`glm4v precision`: its subcommands."""

import typer

command = typer.Typer(
    no_args_is_help=True, help="Caption images, score captions, compare two systems."
)


@command.callback()
def precision() -> None:
    """Caption images, score captions, compare two systems."""
