"""Where the drawings and the fonts come from, each pinned and each under a free licence.

Drawings are npm packages, fetched once by `npm pack`, checked against their integrity, and kept in
a cache folder (`GLM4V_DEMO_CACHE`, else ~/.cache/glm4v-demo-model). Fonts are Debian packages.
Nothing here is needed to use the model, only to make its data.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from recipes.demo_model.things import things
from recipes.demo_model.vendors import VENDORS, Vendor


class SourceMissing(RuntimeError):
    """Something must be installed, or could not be fetched; the message says what."""


ICON_SIDE = 96  # what icons are drawn at

FONT_FOLDER = Path("/usr/share/fonts")
FONT_PACKAGES = {  # folder under /usr/share/fonts: (Debian package, licence)
    "truetype/dejavu": ("fonts-dejavu-core", "Bitstream Vera"),
    "truetype/lato": ("fonts-lato", "OFL-1.1"),
    "truetype/open-sans": ("fonts-open-sans", "Apache-2.0"),
    "truetype/liberation": ("fonts-liberation", "OFL-1.1"),
    "opentype/cabin": ("fonts-cabin", "OFL-1.1"),
    "opentype/inter": ("fonts-inter", "OFL-1.1"),
    "truetype/roboto/unhinted": ("fonts-roboto-unhinted", "Apache-2.0"),
    "opentype/noto": ("fonts-noto-cjk", "OFL-1.1"),
}


def cache_folder() -> Path:
    """Where fetched packages are kept."""
    named = os.environ.get("GLM4V_DEMO_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "glm4v-demo-model"


def font(relative: str) -> Path:
    """The file of an installed font, by its path under /usr/share/fonts."""
    path = FONT_FOLDER / relative
    if path.is_file():
        return path
    wanted = sorted({package for package, _ in FONT_PACKAGES.values()})
    raise SourceMissing(f"there is no {path}; apt-get install {' '.join(wanted)}")


def drawing(vendor: str, code_point: str) -> Image.Image:
    """One vendor's drawing of a code point ("1f415", "2702-fe0f"), RGBA."""
    path = cache_folder() / vendor / f"{code_point}.png"
    if not path.is_file():
        raise SourceMissing(f"there is no {path}; python -m recipes.demo_model.sources fetches it")
    with Image.open(path) as file:
        image: Image.Image = file.convert("RGBA")
    return image


def has_fonts() -> bool:
    """Whether all fonts are installed."""
    return all((FONT_FOLDER / relative).is_dir() for relative in FONT_PACKAGES)


def has_drawings() -> bool:
    """Whether all drawings were fetched."""
    return all((cache_folder() / name / "complete").is_file() for name in VENDORS)


@cache
def fetch() -> None:
    """Fetch and unpack what the cache lacks, and see that the fonts are there."""
    for relative in FONT_PACKAGES:
        if not (FONT_FOLDER / relative).is_dir():
            font(f"{relative}/")
    for vendor in VENDORS.values():
        if not (cache_folder() / vendor.name / "complete").is_file():
            _fetch(vendor)


def _fetch(vendor: Vendor) -> None:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name, version = vendor.package.rsplit("@", 1)
    archive = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not archive.is_file() or not _is_intact(archive, vendor):
        _say(f"fetching {vendor.package} ({vendor.licence})")
        _pack(vendor, folder)
    if not _is_intact(archive, vendor):
        raise SourceMissing(f"{archive} is not the {vendor.package} that this recipe was made with")
    _say(f"unpacking the drawings of {vendor.package}")
    target = folder / vendor.name
    target.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for code_point, content in _pictures(tar, vendor) if vendor.folder else _icons(tar):
            (target / f"{code_point}.png").write_bytes(content)
    (target / "complete").touch()
    archive.unlink()


def _pack(vendor: Vendor, folder: Path) -> None:
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), vendor.package]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SourceMissing("there is no npm; apt-get install npm") from None
    except subprocess.CalledProcessError as error:
        raise SourceMissing(f"{' '.join(command)} ended with {error.returncode}") from None


def _is_intact(archive: Path, vendor: Vendor) -> bool:
    with archive.open("rb") as file:
        digest = hashlib.sha512()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return base64.b64encode(digest.digest()).decode() == vendor.integrity


def _pictures(tar: tarfile.TarFile, vendor: Vendor) -> Iterator[tuple[str, bytes]]:
    wanted = {f"{vendor.folder}/{thing.code_point}.png": thing.code_point for thing in things()}
    for member in tar:
        if member.name in wanted and (file := tar.extractfile(member)):
            yield wanted[member.name], file.read()


def _icons(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    file = tar.extractfile("package/icons.json")
    if file is None:
        raise SourceMissing("icons.json is not a file")
    icons = json.load(file)
    for thing in things():
        name = icons.get("aliases", {}).get(thing.icon, {}).get("parent", thing.icon)
        if icon := icons["icons"].get(name):
            width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
            yield thing.code_point, _drawn(icon["body"], width, height)


def _drawn(body: str, width: int, height: int) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise SourceMissing("there is no resvg_py; pip install resvg-py") from None
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{ICON_SIDE}" height="{ICON_SIDE}">{body}</svg>'
    )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))


def _say(text: str) -> None:
    sys.stderr.write(f"sources: {text}\n")


if __name__ == "__main__":
    try:
        fetch()
    except SourceMissing as error:
        _say(str(error))
        sys.exit(1)
