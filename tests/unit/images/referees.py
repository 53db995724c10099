"""What other decoders make of the test images: `python -m tests.unit.images.referees`.

Prints, by form, how many files each decoder shows as the specification has them. Needs
opencv-python-headless, pypng, tifffile, imagecodecs and imageio-ffmpeg, which no test needs.
"""

import io
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import png as pypng
import tifffile

from glm4v.images import ImageLimits
from glm4v.images.inspection import read_header
from tests.unit.images import bmp, jpeg, png, tiff
from tests.unit.images.case import Case
from tests.unit.images.samples import Samples, over_white, over_white_premultiplied

_FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
_CLOSE = 8.5  # steps of 255: some shift 5 bits to 8 and fill with zeros


def _shown(values: Samples, top: int, *, is_premultiplied: bool = False) -> Samples:
    """[height, width, 1..4] of any depth -> RGB over white."""
    seen = values.astype(float) * 255 / top
    colour = seen[..., :3] if seen.shape[-1] > 2 else np.repeat(seen[..., :1], 3, -1)
    if seen.shape[-1] not in (2, 4):
        return colour
    blend = over_white_premultiplied if is_premultiplied else over_white
    return blend(colour, seen[..., -1] / 255)


def opencv(data: bytes) -> Samples:
    """As OpenCV reads it with its alpha and depth."""
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if read is None:
        raise ValueError("not read")
    read = read[..., None] if read.ndim == 2 else read
    order = [2, 1, 0, 3][: read.shape[-1]] if read.shape[-1] > 2 else [0, 1][: read.shape[-1]]
    is_premultiplied = data[:2] in (b"II", b"MM") and read.dtype == np.uint8  # it says nowhere
    return _shown(read[..., order], 256**read.itemsize - 1, is_premultiplied=is_premultiplied)


def ffmpeg(data: bytes) -> Samples:
    """As ffmpeg reads it, at 16 bits."""
    with tempfile.NamedTemporaryFile() as file:  # through a pipe it finds no TIFF
        file.write(data)
        file.flush()
        command = [
            _FFMPEG,
            "-v",
            "error",
            "-i",
            file.name,
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgba64le",
            "-frames:v",
            "1",
            "-",
        ]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    if not done.stdout:
        raise ValueError(done.stderr.decode(errors="replace"))
    height = read_header(data, ImageLimits()).height
    return _shown(np.frombuffer(done.stdout, "<u2").reshape(height, -1, 4), 2**16 - 1)


def python_png(data: bytes) -> Samples:
    """As pypng reads a PNG."""
    width, height, rows, info = pypng.Reader(bytes=data).asDirect()
    values = np.array([list(row) for row in rows]).reshape(height, width, info["planes"])
    return _shown(values, 2 ** info["bitdepth"] - 1)


def tiff_file(data: bytes) -> Samples:
    """The samples of a TIFF by tifffile and imagecodecs; only what they mean is from the tags."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        values = page.asarray()
        if page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        top = 2**page.bitspersample - 1
        if page.photometric == 3:
            return _shown(np.moveaxis(page.colormap[:, values[..., 0].astype(int)], 0, -1), 65535)
        opacity = page.extrasamples[0] if page.extrasamples else 2
        count = {0: 1, 1: 1, 2: 3}[page.photometric] + (opacity > 0)
        values = top - values if page.photometric == 0 else values
        return _shown(values[..., :count], top, is_premultiplied=opacity == 1)


_REFEREES: dict[str, dict[str, Callable[[bytes], Samples]]] = {
    "png": {"opencv": opencv, "ffmpeg": ffmpeg, "pypng": python_png},
    "tiff": {"opencv": opencv, "ffmpeg": ffmpeg, "tifffile": tiff_file},
    "bmp": {"opencv": opencv, "ffmpeg": ffmpeg},
    "jpeg": {"opencv": opencv, "ffmpeg": ffmpeg},
}


def _cases() -> Iterator[Case]:
    for module in (png, tiff, bmp, jpeg):
        yield from module.cases()


def _verdict(read: Callable[[bytes], Samples], case: Case) -> str:
    try:
        seen = read(case.data)
    except Exception:
        return "unread"
    if seen.shape != case.pixels.shape:
        return "unread"
    return "same" if np.abs(seen - case.pixels).max() <= _CLOSE else "other"


def main() -> None:
    """The table on standard output."""
    for package in ("opencv-python-headless", "pypng", "tifffile", "imagecodecs", "imageio-ffmpeg"):
        print(package, metadata.version(package))  # noqa: T201
    table: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for case in _cases():
        kind = case.form.split("-")[0]
        if any(word not in f"{case.form} {case.arrangement}" for word in sys.argv[1:]):
            continue
        for name, read in _REFEREES[kind].items():
            table[case.form][name][_verdict(read, case)] += 1
    for form, row in table.items():
        print(form, {name: dict(counts) for name, counts in row.items()})  # noqa: T201


if __name__ == "__main__":
    main()
