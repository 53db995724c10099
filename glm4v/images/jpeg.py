"""JPEG: segments up to the first scan, then scans. Source: ITU-T T.81, annex B."""

import re
from dataclasses import dataclass

from glm4v.images.header import Damaged, ImageHeader, not_read, too_many
from glm4v.images.limits import ImageLimits

MAGIC = b"\xff\xd8\xff"

_BASELINE_TO_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
_ARITHMETIC = (0xC9, 0xCA)
_FRAMES = {marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)}
_START_OF_SCAN, _END_OF_IMAGE, _COMMENT = 0xDA, 0xD9, 0xFE
_METADATA = range(0xE0, 0xF0)  # APP0 … APP15
_JFIF, _ADOBE = 0xE0, 0xEE
_KEPT_METADATA = (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0")  # say the orientation
# Within a scan, 0xFF begins a marker unless 0 (a stuffed byte), a restart or another one follows.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class JpegHeader(ImageHeader):
    """And where the file can be cut."""

    kept: tuple[tuple[int, int], ...]  # from, to; of the segments before the first scan
    scans: int  # where they start

    def essence(self, data: bytes) -> bytes:
        """One image: no thumbnails, profiles, or further images behind it."""
        return b"\xff\xd8" + b"".join(data[a:b] for a, b in self.kept) + data[self.scans :]


def read(data: bytes, limits: ImageLimits) -> JpegHeader:
    """Walk over the segments and count the scans."""
    size: tuple[int, int] | None = None
    kept: list[tuple[int, int]] = []
    seen: set[bytes] = set()
    position = 2
    for _ in range(limits.max_parts):
        start, marker = _next_marker(data, position)
        if marker == _END_OF_IMAGE:
            raise Damaged
        end = _end(data, start)
        if marker == _START_OF_SCAN:
            break
        if marker in _FRAMES:
            size = _frame(data, start, marker)
        if _is_needed(data, start, marker, seen):
            kept.append((start, end))
        position = end
    else:
        raise too_many("JPEG", "segments", limits.max_parts)
    if size is None:
        raise Damaged
    _count_scans(data, end, limits)
    return JpegHeader("JPEG", *size, tuple(kept), start)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    found = _MARKER.search(data, position)
    if found is None:
        raise Damaged
    return found.end() - 2, data[found.end() - 1]


def _end(data: bytes, start: int) -> int:
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def _frame(data: bytes, start: int, marker: int) -> tuple[int, int]:
    precision, height_1, height_0, width_1, width_0, components = data[start + 4 : start + 10]
    if marker not in (*_BASELINE_TO_PROGRESSIVE, *_ARITHMETIC):
        raise not_read("JPEG", "lossless or hierarchical coding")
    if precision != 8:
        raise not_read("JPEG", f"{precision} bits a sample")
    if components not in (1, 3, 4):
        raise not_read("JPEG", f"{components} components")
    return width_1 << 8 | width_0, height_1 << 8 | height_0


def _is_needed(data: bytes, start: int, marker: int, seen: set[bytes]) -> bool:
    if marker == _COMMENT:
        return False
    if marker not in _METADATA or marker in (_JFIF, _ADOBE):
        return True
    content = data[start + 4 : start + 40]
    for name in _KEPT_METADATA:
        if content.startswith(name) and name not in seen:
            seen.add(name)
            return True
    return False


def _count_scans(data: bytes, position: int, limits: ImageLimits) -> None:
    """What stands between scans (tables) is walked as well; a file may end without its mark.

    Few files have so many starts of scans even with those inside of tables and of further images.
    """
    if data.count(bytes([0xFF, _START_OF_SCAN]), position) < limits.max_scans:
        return
    scans = 1
    for _ in range(limits.max_parts):
        found = _MARKER.search(data, position)
        if found is None or data[found.end() - 1] == _END_OF_IMAGE:
            return
        scans += data[found.end() - 1] == _START_OF_SCAN
        if scans > limits.max_scans:
            raise too_many("JPEG", "scans", limits.max_scans)
        position = max(found.end(), _end(data, found.end() - 2))
    raise too_many("JPEG", "segments", limits.max_parts)
