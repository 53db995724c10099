#!/usr/bin/env bash
# Pillow 13.0.0, OpenCV 5.0.0.93, ffmpeg 9.0.2: plain grey PNG and TIFF files come out opaque, or as negatives.
#
# One would expect: PNG's tRNS declares one grey of a file transparent, at the depth of the file (third edition, 11.3.1.1);
# TIFF's PhotometricInterpretation 0 means that 0 is white, at every depth (TIFF 6.0, section 8).
# Seen on 2026-11-29 (Python 3.11, Linux x86-64): with 4 bits a pixel and tRNS 2, pypng makes the grey 2 transparent; Pillow
# and ffmpeg do not, as they compare 2 with greys that they have scaled to 0 … 255; OpenCV drops the transparency of grey PNGs
# at every depth. With 8 bits Pillow, ffmpeg and pypng agree. A TIFF with white as 0 is shown right by all three with 8 bits;
# with 16 bits Pillow and OpenCV show its negative, ffmpeg does not. Nothing warns.
# Who meets it: whoever feeds scans, faxes, X-rays and line drawings to a model, which then sees another image than a viewer.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python="$work/venv/bin/python"

cat >"$work/seen.py" <<'PYTHON'
import io
import struct
import subprocess
import sys
import tempfile
import zlib

import cv2
import imageio_ffmpeg
import numpy as np
import PIL
import png as pypng
from PIL import Image

WIDTH = 16


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def grey_png(depth, clear, other):
    """One line, its left half of the clear value."""
    bits = "".join(f"{value:0{depth}b}" for value in [clear] * (WIDTH // 2) + [other] * (WIDTH // 2))
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, 1, depth, 0, 0, 0, 0))
    return (b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">H", clear))
            + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))


def white_as_zero_tiff(bits):
    """One line of zeros, which are white."""
    data = bytes(WIDTH * bits // 8)
    tags = [(256, WIDTH), (257, 1), (258, bits), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def by_pillow(data):
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I"):
        return np.asarray(image)[..., None]
    return np.asarray(image.convert("RGBA"))


def by_opencv(data):
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return seen.reshape(1, WIDTH, -1)


def by_ffmpeg(data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", file.name, "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
        seen = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(seen, np.uint8).reshape(1, WIDTH, 4)


def by_pypng(data):
    width, height, rows, info = pypng.Reader(bytes=data).asDirect()
    return np.array([list(row) for row in rows]).reshape(height, width, info["planes"])


def is_clear(seen):
    return bool(seen.shape[-1] in (2, 4) and seen[0, 0, -1] == 0)


READERS = {"Pillow": by_pillow, "OpenCV": by_opencv, "ffmpeg": by_ffmpeg, "pypng": by_pypng}
CLEAR = {  # depth: what shows the declared value as transparent
    4: {"Pillow": False, "OpenCV": False, "ffmpeg": False, "pypng": True},
    8: {"Pillow": True, "OpenCV": False, "ffmpeg": True, "pypng": True},
}
WHITE = {  # depth: what shows 0 as white
    8: {"Pillow": True, "OpenCV": True, "ffmpeg": True},
    16: {"Pillow": False, "OpenCV": False, "ffmpeg": True},
}
print("Pillow", PIL.__version__, "OpenCV", cv2.__version__, "ffmpeg", imageio_ffmpeg.get_ffmpeg_version())
differs = False
for depth, expected in CLEAR.items():
    seen = {name: is_clear(READERS[name](grey_png(depth, 2, 9))) for name in expected}
    print(f"PNG, {depth} bits, tRNS 2: the grey 2 is transparent:", seen)
    differs |= seen != expected
for depth, expected in WHITE.items():
    seen = {name: bool(READERS[name](white_as_zero_tiff(depth))[0, 0, 0] > 0) for name in expected}
    print(f"TIFF, {depth} bits, white is 0: a pixel of 0 is white:", seen)
    differs |= seen != expected
sys.exit(differs)
PYTHON

"$python" -m pip -q --disable-pip-version-check install "pillow==13.0.0" "opencv-python-headless==5.0.0.93" \
    "imageio-ffmpeg==0.8.1" "pypng==0.20220715.0" "numpy==2.4.6"
"$python" "$work/seen.py"
