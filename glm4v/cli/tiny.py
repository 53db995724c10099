"""`glm4v tiny`: a small checkpoint for experiments."""

from pathlib import Path
from typing import Annotated

import typer


def tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder of the checkpoint.")],
) -> None:
    """Write a checkpoint of half a megabyte with random weights. Its answers are noise."""
    # Imported here: PyTorch takes seconds to import, and the other subcommands do not need it.
    from glm4v.checkpoint.tiny import write_tiny

    write_tiny(folder)
    typer.echo(f"wrote {folder}; start it with: glm4v up --model {folder}")
