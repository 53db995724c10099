"""From an image file to upright RGB over white. Needs Pillow.

| stored                             | shown                                          |
|------------------------------------|------------------------------------------------|
| grey or palette of 1 … 8 bits, RGB | as it is                                       |
| grey of 12 or 16 bits              | scaled by the full range, rounded              |
| RGB and alpha of 16 bits           | their high bytes                               |
| one grey or colour declared clear  | compared at the stored depth, becomes white    |
| alpha, premultiplied or not        | laid over white                                |
| CMYK, YCbCr, CIE L*a*b*            | as Pillow's `convert("RGB")`                   |
| colour profiles, gamma             | ignored, as the original implementation does   |
"""

import io
from contextlib import suppress

from PIL import Image, ImageChops, ImageFile, ImageOps

from glm4v.errors import InvalidRequest
from glm4v.images import png
from glm4v.images.bmp import BmpHeader
from glm4v.images.header import ImageHeader
from glm4v.images.inspection import read_header
from glm4v.images.limits import ImageLimits
from glm4v.images.png import PngHeader
from glm4v.images.tiff import TiffHeader

_LOW_BYTES = "RGB;16L"  # Pillow's name for taking a big-endian sample's second byte


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The first frame of an image file, upright, as RGB; transparency becomes white.

    The size of the file is not looked at: it is in memory already. Raises InvalidRequest when the
    header is refused or the data is damaged.
    """
    header = read_header(data, limits)
    try:
        return _decode(header, data)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged data
        raise InvalidRequest(
            f"the {header.format} image ({len(data)} bytes, {header.width} x {header.height} "
            "pixels) is damaged or truncated; send the whole file"
        ) from error


def square(data: bytes, size: int, limits: ImageLimits) -> bytes:
    """The image squeezed to `size` x `size` pixels whatever its shape, three bytes each.

    No crop, no padding, as the model was trained. Raises what `decode` does.
    """
    image = decode(data, limits).resize((size, size), Image.Resampling.BICUBIC)
    return image.tobytes()


def _decode(header: ImageHeader, data: bytes) -> Image.Image:
    image: Image.Image = _opened(header, data)
    image.load()
    if isinstance(header, PngHeader) and "transparency" in image.info:
        image = _transparency(header, data, image)
    elif isinstance(header, BmpHeader) and image.mode == "P":
        image.putpalette(header.colours(data))
    elif isinstance(header, TiffHeader) and image.mode.startswith("I"):
        image = _grey_8_bit(image, header.form.bits)
        image = ImageChops.invert(image) if header.form.is_inverted else image
    return _to_rgb(_upright(image))


def _opened(header: ImageHeader, data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(header.essence(data)), formats=(header.format,))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation; TIFF images come without it, Pillow has turned them."""
    with suppress(Exception):  # metadata that cannot be parsed says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _transparency(header: PngHeader, data: bytes, image: Image.Image) -> Image.Image:
    """The one value or colour that is declared clear, in the terms of Pillow's pixels.

    tRNS gives it at the depth of the file, of which the low bits count (PNG, 11.3.1.1).
    """
    clear = image.info["transparency"]
    if header.colour == png.GREY and header.depth == 16:
        return _grey_8_bit(image, 16, clear)
    if header.colour == png.GREY and header.depth > 1:
        top = 2**header.depth - 1
        image.info["transparency"] = (clear & top) * (255 // top)
    elif header.colour == png.RGB and header.depth == 8:
        image.info["transparency"] = tuple(value & 255 for value in clear)
    elif header.colour == png.RGB:
        return _with_mask(image, _low_bytes(header, data), clear)
    return image


def _low_bytes(header: PngHeader, data: bytes) -> Image.Image:
    image = _opened(header, data)
    image.tile = [tile._replace(args=_LOW_BYTES) for tile in image.tile]
    image.load()
    return image


def _with_mask(image: Image.Image, low: Image.Image, clear: tuple[int, int, int]) -> Image.Image:
    """RGBA from the high and the low bytes of RGB: clear where both are those of `clear`."""
    opacity = Image.new("L", image.size, 0)
    for half, shift in ((image, 8), (low, 0)):
        for band, value in zip(half.split(), clear, strict=True):
            wanted = value >> shift & 255
            differs = band.point([255 * (each != wanted) for each in range(256)])
            opacity = ImageChops.lighter(opacity, differs)
    image.info.pop("transparency")
    image.putalpha(opacity)
    return image


def _grey_8_bit(image: Image.Image, bits: int, clear: int | None = None) -> Image.Image:
    """Wide grey as L, or as LA where one value is declared clear."""
    values = range(2**16)
    wide = image.convert("I")
    top = 2**bits - 1
    grey = wide.point([round(min(value, top) * 255 / top) for value in values], "L")
    if clear is None:
        return grey
    opacity = wide.point([0 if value == clear else 255 for value in values], "L")
    return Image.merge("LA", (grey, opacity))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _grey_8_bit(image, 16)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas
