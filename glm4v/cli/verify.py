"""`glm4v verify`: which checkpoint lies in a folder, and whether it is whole."""

from pathlib import Path
from typing import Annotated

import typer

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.checksum import check, check_once, checked_files, checksum
from glm4v.errors import CheckpointError, ConfigurationError


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the checkpoint.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="The SHA-256 that it must have.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="The fingerprint that it must have.")
    ] = None,
    once: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for notes of passed checks; unchanged files are not read again.",
        ),
    ] = None,
) -> None:
    """Print a checkpoint's fingerprint, which names its queues, and its SHA-256; or check them.

    Without options all files are read: 28 GB take a minute or more.
    """
    if once is not None and sha256 is None:
        raise ConfigurationError("--once notes a check against --sha256, which is missing")
    checkpoint = Checkpoint.open(folder)
    if fingerprint is not None and fingerprint != checkpoint.fingerprint:
        raise CheckpointError(
            f"{folder}: the fingerprint is {checkpoint.fingerprint}, not {fingerprint}"
        )
    typer.echo(f"fingerprint {checkpoint.fingerprint}")
    if checkpoint.quantized:
        typer.echo(f"quantized by {checkpoint.quantized_by}")
    files = checked_files(checkpoint)
    if sha256 is None:
        if fingerprint is None:
            typer.echo(f"sha256 {checksum(files)}")
        return
    if once is None:
        check(files, sha256)
    elif not check_once(files, sha256, once):
        typer.echo(f"sha256 {sha256} (checked before)")
        return
    typer.echo(f"sha256 {sha256}")
