"""TIFF: the tags of the first directory. Source: TIFF 6.0; BigTIFF as libtiff documents it.

Which forms are read stands in `tiff_forms`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from glm4v.images import tiff_forms
from glm4v.images.header import Damaged, ImageHeader, too_many
from glm4v.images.limits import ImageLimits
from glm4v.images.tiff_forms import BLACK_IS_ZERO, TiffForm

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 266, 277, 284, 338, 339
_STRIPS, _TILE_WIDTH, _TILE_LENGTH, _TILES, _INK_SET, _SUBSAMPLING = 273, 322, 323, 324, 332, 530
_COEFFICIENTS, _REFERENCE = 529, 532
# These, the orientation, and what compressions need.
_NEEDED = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS, 274, _SAMPLES, 278,
    279, _PLANAR, 292, 293, 317, 320, _TILE_WIDTH, _TILE_LENGTH, _TILES, 325, _INK_SET, _EXTRA,
    _FORMAT, 347, *range(512, 522), _COEFFICIENTS, _SUBSAMPLING, 531, _REFERENCE,
}  # fmt: skip
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 16: "Q"}  # bytes, 16, 32, a fraction, 64 bits
_USUAL_COLOURS = {_COEFFICIENTS: (0.299, 0.587, 0.114), _REFERENCE: (0, 255, 128, 255, 128, 255)}
_MOST_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class TiffHeader(ImageHeader):
    """And how its samples are to be understood."""

    form: TiffForm
    directory: tuple[int, int]  # where its entries begin, and how many there are
    photometric: int  # where that tag's value stands

    def essence(self, data: bytes) -> bytes:
        """The first directory with the tags of its pixels; wide grey with black as 0."""
        changed = bytearray(data)
        codes = _Codes.of(data)
        if self.form.is_inverted:
            struct.pack_into(f"{codes.order}H", changed, self.photometric, BLACK_IS_ZERO)
        start, count = self.directory
        step = codes.entry
        entries = [data[at : at + 2] for at in range(start, start + count * step, step)]
        kept = b"".join(
            changed[start + place * step : start + (place + 1) * step]
            for place, tag in enumerate(entries)
            if int.from_bytes(tag, codes.byte_order) in _NEEDED
        )
        end = struct.pack(codes.order + codes.offset, 0)  # no directory follows
        counted = struct.pack(codes.order + codes.count, len(kept) // step)
        start -= len(counted)
        whole = counted + kept + end
        changed[start : start + len(whole)] = whole
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class _Codes:
    """How a file writes numbers: as classic TIFF or as BigTIFF, in its byte order."""

    order: str
    first: int  # where the place of the first directory stands
    count: str  # of a directory's entries
    offset: str  # also of the values of an entry
    entry: int  # bytes

    @property
    def byte_order(self) -> Literal["little", "big"]:
        return "little" if self.order == "<" else "big"

    @classmethod
    def of(cls, data: bytes) -> "_Codes":
        order = "<" if data[:2] == b"II" else ">"
        is_big = 43 in data[2:4]
        return cls(order, 8, "Q", "Q", 20) if is_big else cls(order, 4, "H", "I", 12)


def read(data: bytes, limits: ImageLimits) -> TiffHeader:
    """Read the tags that say what the pixels are; refuse forms that are not read right."""
    codes = _Codes.of(data)
    (start,) = struct.unpack_from(codes.order + codes.offset, data, codes.first)
    (count,) = struct.unpack_from(codes.order + codes.count, data, start)
    start += struct.calcsize(codes.count)
    if count > limits.max_entries:
        raise too_many("TIFF", "entries in its directory", limits.max_entries)
    tags = dict(_tags(data, codes, start, count))
    width, height = tags[_WIDTH].number(), tags[_HEIGHT].number()
    form = _form(tags, codes.order)
    tiff_forms.check(form)
    _check_blocks(tags, width, height, limits)
    at = tags[_PHOTOMETRIC].place
    return TiffHeader("TIFF", width, height, form, (start, count), at)


@dataclass(frozen=True, slots=True)
class _Tag:
    """One entry of a directory; `values` are read only where there are few."""

    count: int
    place: int  # where its values begin
    values: tuple[int, ...]

    def fractions(self) -> tuple[float, ...]:
        """Values that are stored as numerator and denominator; 0 for one without a denominator."""
        pairs = zip(self.values[::2], self.values[1::2], strict=True)
        return tuple(above / below if below else 0 for above, below in pairs)

    def number(self) -> int:
        """A value that stands alone."""
        if len(self.values) != 1:
            raise Damaged
        return self.values[0]


def _tags(data: bytes, codes: _Codes, start: int, count: int) -> Iterator[tuple[int, _Tag]]:
    seen: set[int] = set()
    room = struct.calcsize(codes.offset)
    for at in range(start, start + count * codes.entry, codes.entry):
        tag, kind, number = struct.unpack_from(f"{codes.order}HH{codes.offset}", data, at)
        if tag not in _NEEDED:
            continue
        if tag in seen:
            raise Damaged  # decoders disagree on which one counts
        seen.add(tag)
        place = at + 4 + room
        code = _TYPES.get(kind)
        values: tuple[int, ...] = ()
        if code is not None and number <= _MOST_SAMPLES:
            if number * struct.calcsize("=" + code) > room:
                (place,) = struct.unpack_from(codes.order + codes.offset, data, place)
            values = struct.unpack_from(codes.order + code * number, data, place)
        yield tag, _Tag(number, place, values)


def _form(tags: dict[int, _Tag], order: str) -> TiffForm:
    def number(tag: int, default: int) -> int:
        return tags[tag].number() if tag in tags else default

    samples = number(_SAMPLES, 1)
    if not 0 < samples <= _MOST_SAMPLES:
        raise tiff_forms.refused(f"{samples} samples a pixel")
    bits = tags[_BITS].values if _BITS in tags else (1,)
    formats = set(tags[_FORMAT].values if _FORMAT in tags else (1,))
    bits = bits * samples if len(bits) == 1 else bits[:samples]
    if len(set(bits)) != 1 or len(bits) != samples or len(formats) != 1:
        raise tiff_forms.refused("samples of different depths or formats")
    return TiffForm(
        photometric=tags[_PHOTOMETRIC].number(),
        bits=bits[0],
        sample_format=formats.pop(),
        samples=samples,
        extra=tags[_EXTRA].values if _EXTRA in tags else (),
        is_planar=number(_PLANAR, 1) == 2 and samples > 1,
        compression=number(_COMPRESSION, 1),
        is_big_endian=order == ">",
        is_bit_reversed=number(_FILL_ORDER, 1) == 2,
        subsampling=tags[_SUBSAMPLING].values if _SUBSAMPLING in tags else (2, 2),
        has_own_colours=any(
            tags[tag].fractions() != usual for tag, usual in _USUAL_COLOURS.items() if tag in tags
        ),
        ink_set=number(_INK_SET, 1),
    )


def _check_blocks(tags: dict[int, _Tag], width: int, height: int, limits: ImageLimits) -> None:
    """Every tile is decoded whole, however little of it is seen."""
    blocks = max(tags[tag].count for tag in (_STRIPS, _TILES) if tag in tags)
    if blocks > limits.max_parts:
        raise too_many("TIFF", "strips or tiles", limits.max_parts)
    if _TILES in tags:
        right, down = tags[_TILE_WIDTH].number(), tags[_TILE_LENGTH].number()
        if not right or not down:
            raise Damaged
        covered = -(-width // right) * right * -(-height // down) * down
        if covered > max(limits.max_pixels, 2 * width * height):
            raise too_many("TIFF", "pixels in its tiles", limits.max_pixels)
