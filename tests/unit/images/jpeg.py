"""JPEG files of flat blocks, coded by hand.

Source: ITU-T T.81; for Adobe's marker, its Technical Note 5116, section 18.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from tests.unit.images.case import Case
from tests.unit.images.samples import Samples, grey_rgb

BASELINE = 0xC0
_SIDE = 8  # of a block
# Lengths of the codes of a difference's magnitude 0 … 11: four bits each; and "no more" for AC.
_DC_TABLE = bytes([0, 0, 0, 12, *[0] * 12, *range(12)])
_AC_TABLE = bytes([1, *[0] * 15, 0])


def segment(marker: int, content: bytes) -> bytes:
    """A marker with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(
    blocks: Samples,
    *,
    adobe: int | None = None,
    identifiers: Sequence[int] = (1, 2, 3, 4),
    frame: int = BASELINE,
    precision: int = 8,
    interleaved: bool = True,
    repeated: int = 1,
    between: bytes = b"",
) -> bytes:
    """A file whose block [y, x] has the level [component] everywhere: [rows, columns, components].

    The scans are written `repeated` times; `between` stands before each of them.
    """
    rows, columns, components = blocks.shape
    names = bytes(identifiers[:components])
    size = struct.pack(">BHHB", precision, rows * _SIDE, columns * _SIDE, components)
    described = b"".join(bytes([name, 0x11, 0]) for name in names)
    head = b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") * (adobe is None)
    if adobe is not None:
        head += segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, adobe))
    head += segment(0xDB, b"\0" + b"\1" * 64) + segment(frame, size + described)
    head += segment(0xC4, b"\0" + _DC_TABLE) + segment(0xC4, b"\x10" + _AC_TABLE)
    groups = [range(components)] if interleaved else [[each] for each in range(components)]
    scans = [between + _scan(blocks[..., group], names, group) for group in groups]
    return head + b"".join(scans) * repeated + b"\xff\xd9"


def _scan(levels: Samples, names: bytes, group: Sequence[int]) -> bytes:
    header = bytes([len(group)]) + b"".join(bytes([names[each], 0]) for each in group) + b"\0\x3f\0"
    bits = ""
    before = [0] * len(group)
    for block in levels.reshape(-1, len(group)):
        for place, level in enumerate(block):
            value = 8 * (int(level) - 128)
            bits += _coded(value - before[place]) + "0"
            before[place] = value
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return segment(0xDA, header) + data


def _coded(difference: int) -> str:
    size = abs(difference).bit_length()
    value = difference if difference >= 0 else difference + 2**size - 1
    return f"{size:04b}" + (f"{value:0{size}b}" if size else "")


def levels(components: int) -> Samples:
    """Blocks of several colours: [3, 5, components]."""
    return np.random.default_rng(components).integers(0, 256, (3, 5, components))


def magnified(blocks: Samples) -> Samples:
    """Each block as its pixels."""
    return blocks.repeat(_SIDE, 0).repeat(_SIDE, 1).astype(float)


def rgb_of(ycbcr: Samples) -> Samples:
    """By JFIF 1.02."""
    luma, blue, red = np.moveaxis(ycbcr.astype(float), -1, 0)
    green = luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    return np.stack([luma + 1.402 * (red - 128), green, luma + 1.772 * (blue - 128)], -1).clip(
        0, 255
    )


def _inked(cmyk: Samples) -> Samples:
    """Adobe stores ink upside down: 255 is none."""
    light = cmyk.astype(float) / 255
    return 255 * light[..., :3] * light[..., 3:]


def cases() -> Iterator[Case]:
    """Grey, three and four components, by every sign of what they mean; several scans."""
    grey, three, four = levels(1), levels(3), levels(4)
    ycck = np.concatenate([255 - rgb_of(four[..., :3]), four[..., 3:]], -1)  # YCC of the inks
    forms: dict[str, tuple[bytes, Samples]] = {
        "grey": (jpeg(grey), grey_rgb(grey[..., 0])),
        "ycbcr": (jpeg(three), rgb_of(three)),
        "ycbcr-adobe": (jpeg(three, adobe=1), rgb_of(three)),
        "rgb-adobe": (jpeg(three, adobe=0), three),
        "cmyk-adobe": (jpeg(four, adobe=0), _inked(four)),
        "ycck-adobe": (jpeg(four, adobe=2), _inked(ycck)),
        "ycbcr-scans": (jpeg(three, interleaved=False), rgb_of(three)),
        "extended": (jpeg(three, frame=0xC1), rgb_of(three)),
    }
    for name, (data, pixels) in forms.items():
        yield Case(f"jpeg-{name}", "blocks", data, magnified(pixels), tolerance=2)
    refused = "a JPEG image with .* is not read"
    for name, data in {
        "12-bits": jpeg(grey, precision=12, frame=0xC1),
        "lossless": jpeg(grey, frame=0xC3),
        "two-components": jpeg(levels(2)),
    }.items():
        yield Case(f"jpeg-{name}", "blocks", data, np.zeros((24, 40, 3)), refused=refused)
