"""Check an image file by its size and its header; no pixel is decoded, and no library used."""

import struct
from collections.abc import Callable

from glm4v.errors import InvalidRequest, TooLarge
from glm4v.images import bmp, gif, jpeg, other_formats, png, tiff, webp
from glm4v.images.header import Damaged, ImageHeader
from glm4v.images.limits import ImageLimits

_Read = Callable[[bytes, ImageLimits], ImageHeader]

FORMATS: dict[str, _Read] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WEBP": webp.read,
    "GIF": gif.read,
    "BMP": bmp.read,
    "TIFF": tiff.read,
}
_URLS = (b"http://", b"https://")


def inspect(data: bytes, limits: ImageLimits) -> ImageHeader:
    """What an image file says of itself.

    Raises TooLarge for too many bytes, InvalidRequest for everything else that is not taken.
    """
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"the image has {len(data)} bytes, at most {limits.max_bytes} are taken; "
            "send a smaller file"
        )
    return read_header(data, limits)


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """The same whatever the size of the file; raises InvalidRequest."""
    if not data:
        raise InvalidRequest("the image is empty (0 bytes); send the bytes of an image file")
    format = _format(data)
    if format is None:
        raise _no_image(data)
    try:
        header = FORMATS[format](data, limits)
    except (Damaged, struct.error, IndexError, ValueError, KeyError) as error:
        raise InvalidRequest(
            f"the {format} image ({len(data)} bytes) is damaged or truncated; send the whole file"
        ) from error
    _check_size(header, len(data), limits)
    return header


def _no_image(data: bytes) -> InvalidRequest:
    """A refusal that knows what people often send, whatever the name of the file says."""
    known = ", ".join(FORMATS)
    if data[:8].lower().startswith(_URLS):
        return InvalidRequest(
            f"the image is a URL ({len(data)} bytes), and URLs are not fetched; send the bytes of "
            f"the image file, one of {known}"
        )
    if other := other_formats.name(data):
        return InvalidRequest(
            f"{len(data)} bytes of {other} are no image that can be read; convert it to one of "
            f"{known}"
        )
    return InvalidRequest(f"{len(data)} bytes are no image that can be read; send one of {known}")


def _format(data: bytes) -> str | None:
    if data.startswith(webp.MAGIC) and data[8:12] == webp.KIND:
        return "WEBP"
    for format, magics in (
        ("JPEG", (jpeg.MAGIC,)),
        ("PNG", (png.MAGIC,)),
        ("GIF", gif.MAGICS),
        ("TIFF", tiff.MAGICS),
        ("BMP", (bmp.MAGIC,)),
    ):
        if data.startswith(magics):
            return format
    return None


def _check_size(header: ImageHeader, size: int, limits: ImageLimits) -> None:
    if not header.width or not header.height:
        raise InvalidRequest(
            f"the {header.format} image ({size} bytes) has {header.width} x {header.height} "
            "pixels; send the whole file"
        )
    if header.width * header.height > limits.max_pixels:
        raise InvalidRequest(
            f"the image has {header.width} x {header.height} pixels, more than "
            f"{limits.max_pixels} pixels in all; send it scaled down"
        )
    if max(header.width, header.height) > limits.max_side:
        raise InvalidRequest(
            f"the image has {header.width} x {header.height} pixels, at most "
            f"{limits.max_side} on a side are taken; send it scaled down"
        )
