"""Which pictures are taken, and how any of them becomes upright RGB.

The gateway inspects, from the header alone; a vision worker decodes. Works with Pillow only.
"""

import io
import warnings
from dataclasses import dataclass
from typing import cast

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from glm4v.errors import InvalidRequest, Overloaded

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


# What undoes each value of the orientation tag. Source: Exif 2.32, tag 0x0112; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_VALUES_16_BIT = range(2**16)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may be; bounds the memory of decoding and resizing it."""

    max_bytes: int = 20 * 2**20  # of the file
    max_pixels: int = 100_000_000
    max_side: int = 65_535  # pixels, the most JPEG has; resizing needs memory for each row


# Pillow checks before the first frame of an animation takes its memory, and ours comes behind that;
# but it knows one limit for a whole process. Whether it warns or raises makes no difference here.
Image.MAX_IMAGE_PIXELS = ImageLimits().max_pixels
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header of a picture says."""

    format: str  # as Pillow names it
    width: int  # pixels as stored, before the orientation is applied
    height: int


def inspect(data: bytes, limits: ImageLimits) -> ImageInfo:
    """Check a picture file by its size and its header; no pixel is decoded.

    Raises Overloaded for too many bytes, InvalidRequest for everything else that is not taken.
    """
    if len(data) > limits.max_bytes:
        raise Overloaded(
            f"the picture has {len(data)} bytes, at most {limits.max_bytes} are taken; "
            "send a smaller file"
        )
    image = _open(data, limits)
    return ImageInfo(image.format or "", image.width, image.height)


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The first frame of a picture file, upright, as RGB; transparency becomes white.

    Grey with 16 bits is scaled to 8. The size of the file is not looked at: it is in memory
    already. Raises InvalidRequest when the header is refused or the data is damaged.
    """
    image = _open(data, limits)
    try:
        image.load()
        return _to_rgb(_upright(image))
    except (InvalidRequest, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged data
        raise InvalidRequest(
            f"the {image.format} picture ({len(data)} bytes, {image.width} x {image.height} "
            "pixels) is damaged or truncated; send the whole file"
        ) from error


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        raise InvalidRequest("the picture is empty (0 bytes); send the bytes of a picture file")
    if limits.max_pixels > (Image.MAX_IMAGE_PIXELS or 0):
        Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = max(image.width * image.height, _tile_pixels(image))
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_many_pixels(limits) from error
    except Exception as error:  # as in `decode`
        raise InvalidRequest(
            f"{len(data)} bytes are no picture that can be read; send one of {', '.join(FORMATS)}"
        ) from error
    if pixels > limits.max_pixels:
        raise _too_many_pixels(limits)
    if max(image.size) > limits.max_side:
        raise InvalidRequest(
            f"the picture has {image.width} x {image.height} pixels, at most "
            f"{limits.max_side} on a side are taken; send it scaled down"
        )
    return image


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a TIFF picture's tile, which is decoded whole however small the picture is."""
    if not isinstance(image, TiffImageFile):
        return 0
    return int(image.tag_v2.get(TILEWIDTH, 0)) * int(image.tag_v2.get(TILELENGTH, 0))


def _too_many_pixels(limits: ImageLimits) -> InvalidRequest:
    return InvalidRequest(
        f"the picture has more than {limits.max_pixels} pixels in all; send it scaled down"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation tag; TIFF pictures come without it, Pillow has turned them."""
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata that cannot be parsed says nothing about the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise InvalidRequest("the picture has floating-point pixels; send 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        image = _grey_8_bit(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_8_bit(image: Image.Image) -> Image.Image:
    """Wide grey as L, or as LA where one value is declared transparent."""
    wide = image.convert("I")
    low, high = cast(tuple[int, int], wide.getextrema())
    if low < 0 or high not in _VALUES_16_BIT:
        raise InvalidRequest(
            f"the picture has grey values from {low} to {high}; "
            f"0 to {_VALUES_16_BIT[-1]} are taken, send 8 or 16 bits a channel"
        )
    grey = wide.point([round(value / 257) for value in _VALUES_16_BIT], "L")
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    opacity = wide.point([0 if value == clear else 255 for value in _VALUES_16_BIT], "L")
    return Image.merge("LA", (grey, opacity))


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow knows the way to RGBA from LA only
        image = image.convert("LA")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas
