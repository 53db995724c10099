"""TIFF files written tag by tag. Source: TIFF 6.0, and its Photoshop notes for deflate."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from tests.unit.images.samples import HEIGHT, Samples, packed

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_TILE = 16  # the smallest


def _lzw(data: bytes) -> bytes:
    """Codes of nine bits throughout, as the table is cleared before it needs more."""
    codes = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    places = np.arange(8, -1, -1)
    return np.packbits(
        (np.array([*codes, 257])[:, None] >> places & 1).astype(np.uint8).ravel()
    ).tobytes()


def _packbits(data: bytes) -> bytes:
    runs = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def _plain(data: bytes) -> bytes:
    return data


COMPRESSIONS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "raw": (1, _plain),
    "lzw": (5, _lzw),
    "deflate": (8, zlib.compress),
    "packbits": (32773, _packbits),
}


@dataclass(frozen=True)
class Layout:
    """How a file's samples are arranged."""

    order: str = "<"
    compression: str = "raw"
    tiled: bool = False
    rows: int = HEIGHT  # of a strip
    planar: bool = False
    reversed_bits: bool = False  # FillOrder 2
    predictor: bool = False  # horizontal differences

    @property
    def is_raw_planar(self) -> bool:
        """Planes without compression, which Pillow reads on a way of its own."""
        return self.planar and self.compression == "raw"

    @property
    def name(self) -> str:
        """For a test's id."""
        words = ["II" if self.order == "<" else "MM", self.compression]
        words += ["tiles"] if self.tiled else []
        words += ["strips"] if self.rows != HEIGHT else []
        words += ["planes"] if self.planar else []
        words += ["reversed"] if self.reversed_bits else []
        words += ["predicted"] if self.predictor else []
        return "-".join(words)


def tiff(
    values: Samples,
    bits: int,
    photometric: int,
    layout: Layout,
    *,
    extra: tuple[int, ...] = (),
    sample_format: int = 1,
    more: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """A file of [height, width, channels]; `more` are tags: type and values."""
    height, width, channels = values.shape
    code = COMPRESSIONS[layout.compression][0]
    planes = [values[..., [plane]] for plane in range(channels)] if layout.planar else [values]
    blocks = [block for plane in planes for block in _blocks(plane, bits, layout)]
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [code]),
        262: (3, [photometric]), 277: (3, [channels]), 284: (3, [2 if layout.planar else 1]),
        339: (3, [sample_format] * channels),
    }  # fmt: skip
    if layout.reversed_bits:
        tags[266] = (3, [2])
    if layout.predictor:
        tags[317] = (3, [2])
    if extra:
        tags[338] = (3, list(extra))
    if layout.tiled:
        tags |= {322: (3, [_TILE]), 323: (3, [_TILE])}
    else:
        tags[278] = (4, [layout.rows])
    offsets, counts = (324, 325) if layout.tiled else (273, 279)
    return assembled(layout.order, tags | (more or {}), blocks, offsets, counts)


def assembled(
    order: str,
    tags: dict[int, tuple[int, list[int]]],
    blocks: list[bytes],
    offsets: int,
    counts: int,
) -> bytes:
    """Header, blocks, values that do not fit into an entry, directory."""
    body = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    starts = []
    for block in blocks:
        starts.append(len(body))
        body += block + bytes(len(block) % 2)
    tags = tags | {offsets: (4, starts), counts: (4, [len(block) for block in blocks])}
    entries = b""
    for tag, (kind, numbers) in sorted(tags.items()):
        stored = struct.pack(f"{order}{len(numbers)}{'HI'[kind - 3]}", *numbers)
        if len(stored) > 4:
            place = len(body)
            body += stored + bytes(len(stored) % 2)
            stored = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + stored.ljust(4, b"\0")
    struct.pack_into(f"{order}I", body, 4, len(body))
    return bytes(body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def _blocks(values: Samples, bits: int, layout: Layout) -> Iterator[bytes]:
    height, width, _ = values.shape
    down, right = (_TILE, _TILE) if layout.tiled else (layout.rows, width)
    for top, left in product(range(0, height, down), range(0, width, right)):
        block = values[top : top + down, left : left + right]
        if layout.tiled:  # padded, by what nobody may see
            room = ((0, _TILE - len(block)), (0, _TILE - block.shape[1]), (0, 0))
            block = np.pad(block, room, constant_values=1)
        if layout.predictor:
            block = np.diff(block, axis=1, prepend=block[:, :1] * 0) % 2**bits
        data = b"".join(packed(block.reshape(len(block), -1), bits, order=layout.order))
        data = COMPRESSIONS[layout.compression][1](data)
        if layout.reversed_bits:
            data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
        yield data
