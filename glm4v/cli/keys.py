"""`glm4v keys`: the API keys of a gateway."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from glm4v.api_keys.key import KeyEntry, check_name, digest_of, new_key
from glm4v.api_keys.key_file import changed_key_file, read_key_files
from glm4v.cli import options as opt
from glm4v.errors import UnknownReference

app = typer.Typer(no_args_is_help=True, help="API keys of a gateway: make, list and revoke them.")
_HELP = "The file of the gateway's keys; it holds digests only."
File = Annotated[Path, typer.Option("--file", metavar="FILE", envvar="GLM4V_API_KEYS", help=_HELP)]
Name = Annotated[
    str, typer.Argument(parser=opt.unicode_text, help="Who calls; requests belong to this name.")
]


@app.command()
def new(name: Name, file: File) -> None:
    """Make a key and print it, this once. The gateway accepts it within seconds.

    A name may have several keys, so that one can replace another.
    """
    check_name(name)
    key = new_key()
    digest = digest_of(key)
    assert digest is not None
    with changed_key_file(file) as entries:
        entries.append(KeyEntry(name, digest, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    typer.echo(key)
    typer.echo(f"This is the only time that the key is shown. {file} has its digest.", err=True)


@app.command("list")
def list_all(file: File) -> None:
    """List the keys: name, id, when it was made."""
    for entry in read_key_files(file):
        typer.echo(f"{entry.name}  {entry.id}  {entry.created}".rstrip())


@app.command()
def revoke(
    name: Name,
    file: File,
    key_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One key; all of NAME without it.")
    ] = None,
) -> None:
    """Revoke keys. The gateway refuses them within seconds; streams that run go on to their end."""
    with changed_key_file(file) as entries:
        revoked = [each for each in entries if each.name == name and key_id in (None, each.id)]
        if not revoked:
            raise UnknownReference(
                f"{file} has no key {name}" + (f" with the id {key_id}" if key_id else "")
            )
        entries[:] = [each for each in entries if each not in revoked]
    for entry in revoked:
        typer.echo(f"{entry.name}  {entry.id}  revoked")
