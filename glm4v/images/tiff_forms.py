"""Which of TIFF's many forms are read: those that Pillow shows as TIFF 6.0 means them.

Everything else is refused by its name. tests/unit/images/tiff.py writes each form.
"""

from dataclasses import dataclass

from glm4v.errors import InvalidRequest
from glm4v.images.header import not_read

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIE_LAB = 0, 1, 2, 3, 5, 6, 8
_NOT_ALPHA, _PREMULTIPLIED, _ALPHA = 0, 1, 2  # kinds of extra samples
_MIXED, _PLANES, _RAW_PLANES = "interleaved", "in planes", "uncompressed in planes"

_RAW = 1
# Raw, CCITT (2 … 4), LZW, JPEG, deflate (2 codes), PackBits, LZMA, Zstandard, WebP.
_COMPRESSIONS = (_RAW, 2, 3, 4, 5, 7, 8, 32946, 32773, 34925, 50000, 50001)
_UNSIGNED, _CMYK = 1, 1  # a sample format, an ink set
_SAMPLE_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_COLOURS = {RGB: 3, SEPARATED: 4, YCBCR: 3, CIE_LAB: 3}  # samples; 1 for all others

# Photometric interpretation, bits of a sample, extra samples: the arrangements that are read.
_READ: dict[tuple[int, int, tuple[int, ...]], tuple[str, ...]] = {
    **{(grey, bits, ()): (_MIXED,) for grey in (0, 1) for bits in (1, 2, 4, 8, 12, 16)},
    **{(BLACK_IS_ZERO, 8, (kind,)): (_MIXED,) for kind in (_NOT_ALPHA, _PREMULTIPLIED, _ALPHA)},
    (RGB, 8, ()): (_MIXED, _PLANES, _RAW_PLANES),
    (RGB, 8, (_NOT_ALPHA,)): (_MIXED, _PLANES),
    (RGB, 8, (_PREMULTIPLIED,)): (_MIXED, _PLANES),
    (RGB, 8, (_ALPHA,)): (_MIXED, _PLANES, _RAW_PLANES),
    **{(RGB, 8, (kind, 0)): (_MIXED,) for kind in (_NOT_ALPHA, _PREMULTIPLIED, _ALPHA)},
    (RGB, 16, ()): (_MIXED, _PLANES),
    **{(RGB, 16, (kind,)): (_MIXED, _PLANES) for kind in (_NOT_ALPHA, _PREMULTIPLIED, _ALPHA)},
    **{(PALETTE, bits, ()): (_MIXED,) for bits in (1, 2, 4, 8)},
    **{(PALETTE, 8, (kind,)): (_MIXED,) for kind in (_NOT_ALPHA, _ALPHA)},
    (SEPARATED, 8, ()): (_MIXED, _PLANES, _RAW_PLANES),
    (SEPARATED, 8, (_NOT_ALPHA,)): (_MIXED,),
    (SEPARATED, 16, ()): (_MIXED, _PLANES),
    (YCBCR, 8, ()): (_MIXED,),
    (CIE_LAB, 8, ()): (_MIXED,),
}


@dataclass(frozen=True, slots=True)
class TiffForm:
    """What the tags say about samples."""

    photometric: int
    bits: int  # of a sample
    sample_format: int
    samples: int  # of a pixel
    extra: tuple[int, ...]  # what the samples beyond the colours mean
    is_planar: bool  # one plane after the other
    compression: int
    is_big_endian: bool
    is_bit_reversed: bool
    subsampling: tuple[int, ...]
    has_own_colours: bool  # coefficients, or reference black and white
    ink_set: int

    @property
    def is_inverted(self) -> bool:
        """Whether white is 0 where Pillow takes black for it, or does not read white as 0."""
        return self.photometric == WHITE_IS_ZERO and self.bits > 8


def refused(form: str) -> InvalidRequest:
    """A form by its name."""
    return not_read("TIFF", form)


def check(form: TiffForm) -> None:
    """Raise InvalidRequest for a form that is not read."""
    if form.sample_format != _UNSIGNED:
        kind = _SAMPLE_FORMATS.get(form.sample_format, f"format-{form.sample_format}")
        raise refused(f"{kind} samples of {form.bits} bits")
    if form.compression not in _COMPRESSIONS:
        raise refused(f"compression {form.compression}")
    if not _is_read(form) or _is_exception(form):
        raise refused(_described(form))


def _is_read(form: TiffForm) -> bool:
    extra = form.extra
    if form.photometric == RGB and form.samples == 4 and not extra and not form.is_planar:
        extra = (_ALPHA,)  # the tag is missing; decoders take it so
    if form.samples - len(extra) != _COLOURS.get(form.photometric, 1):
        return False
    return _arrangement(form) in _READ.get((form.photometric, form.bits, extra), ())


def _is_exception(form: TiffForm) -> bool:
    """What else has to be as it usually is."""
    is_raw = form.compression == _RAW
    if form.is_bit_reversed and not _is_reversal_read(form):
        return True
    if (form.bits == 12 and form.is_big_endian) or form.ink_set != _CMYK:
        return True
    is_plain = form.subsampling == (1, 1) and not form.has_own_colours
    return form.photometric == YCBCR and is_raw and not is_plain


def _is_reversal_read(form: TiffForm) -> bool:
    if form.compression == _RAW:
        return form.bits == 1 and form.photometric != PALETTE
    is_simple = form.samples in (1, 3) and not form.extra and form.photometric <= PALETTE
    return is_simple and form.bits <= 8


def _arrangement(form: TiffForm) -> str:
    if not form.is_planar:
        return _MIXED
    return _RAW_PLANES if form.compression == _RAW else _PLANES


def _described(form: TiffForm) -> str:
    return (
        f"photometric interpretation {form.photometric}, {form.samples} samples of {form.bits} "
        f"bits, extra samples {form.extra}, {_arrangement(form)}, "
        f"{'big' if form.is_big_endian else 'little'}-endian, "
        f"fill order {1 + form.is_bit_reversed}, compression {form.compression}"
    )
