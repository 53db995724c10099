"""`glm4v precision sample-coco`: the same random images of a folder, on any machine."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from glm4v.errors import ConfigurationError, InvalidRequest
from offline.image_folder import images_in


def sample_coco(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    count: Annotated[int, typer.Option(min=1, help="Images to pick.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another one picks other images.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy them there; else their names are listed."),
    ] = None,
) -> None:
    """Pick images at random, the same ones wherever the folder has the same names.

    An image is picked by a hash of the seed and its name: neither the order in which a file system
    lists files nor the version of Python matters, and a folder that grows changes few of them.
    """
    found = images_in(images)
    if len(found) < count:
        raise InvalidRequest(f"{images} has {len(found)} images, and --count is {count}")
    picked = pick([path.name for path in found], count, seed)
    if out is None:
        typer.echo("\n".join(picked))
    else:
        _copy(images, picked, out)
    where = "listed" if out is None else f"copied to {out}"
    typer.echo(f"{count} of {len(found)} images of {images}, seed {seed}: {where}", err=True)


def pick(names: list[str], count: int, seed: int) -> list[str]:
    """`count` of the names, in order; each has the same chance."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:".encode() + os.fsencode(name)).digest()

    return sorted(sorted(names, key=rank)[:count])


def _begun(name: str) -> str:
    return f".{name}.part"


def _copy(source: Path, names: list[str], out: Path) -> None:
    """Copy files whole: one that was begun is not left under its name."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        ours = {*names, *map(_begun, names)}
        others = sorted({path.name for path in out.iterdir()} - ours)
        if others:
            raise InvalidRequest(
                f"{out} has other files ({others[0]}); choose a folder that is empty"
            )
        for name in names:
            begun = out / _begun(name)
            shutil.copyfile(source / name, begun)
            os.replace(begun, out / name)
    except OSError as error:
        raise ConfigurationError(f"the images cannot be copied to {out}: {error}") from None
