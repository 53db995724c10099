"""`glm4v tiny`: a checkpoint to try things with."""

from pathlib import Path
from typing import Annotated

import typer


def tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
) -> None:
    """Write half a megabyte of checkpoint with random weights: its answers are noise."""
    from glm4v.checkpoint.tiny import (
        write_tiny,  # PyTorch: seconds that no other subcommand should take
    )

    write_tiny(folder)
    typer.echo(f"wrote {folder}; start it with: glm4v up --model {folder}")
