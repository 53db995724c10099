"""Images of all kinds become the RGB a person sees; what cannot be is refused with numbers."""

import io
import resource
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from glm4v.errors import InvalidRequest, Overloaded
from glm4v.images import FORMATS, ImageLimits, inspect
from glm4v.images.pixels import decode

LIMITS = ImageLimits()

Pixels = npt.NDArray[Any]


def noise(*shape: int, dtype: type[np.generic] = np.uint8) -> Pixels:
    info = np.iinfo(dtype)  # type: ignore[type-var]
    return np.random.default_rng(7).integers(info.min, info.max, shape, dtype, endpoint=True)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(data: bytes) -> Pixels:
    image = decode(data, LIMITS)
    assert image.mode == "RGB"
    return np.asarray(image)


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    """[..., 3] and [...] -> [..., 3], by the definition."""
    part = alpha[..., None] / 255.0
    return np.asarray(np.rint(colour * part + 255 * (1 - part)), dtype=np.uint8)


def grey_rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=-1)


def huge_png(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds hardly anything."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_taken(format: str) -> None:
    data = saved(Image.fromarray(noise(5, 9, 3)), format)
    info = inspect(data, LIMITS)
    assert (info.format, info.width, info.height) == (format, 9, 5)
    assert decode(data, LIMITS).size == (9, 5)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_rgb_goes_through_unchanged(format: str) -> None:
    original = noise(17, 13, 3)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(original), format)), original)


def test_lossless_webp_goes_through_unchanged() -> None:
    original = noise(17, 13, 3)
    data = saved(Image.fromarray(original), "WEBP", lossless=True)
    np.testing.assert_array_equal(pixels(data), original)


@pytest.mark.parametrize("format", ["ICO", "PPM", "PCX", "JPEG2000", "AVIF", "PDF"])
def test_other_formats_are_refused(format: str) -> None:
    data = saved(Image.fromarray(noise(16, 16, 3)), format)
    name = {"PPM": "", "PCX": "", "JPEG2000": " of JPEG 2000"}.get(format, f" of {format}")
    with pytest.raises(InvalidRequest, match=f"{len(data)} bytes{name} are no image.*JPEG, PNG"):
        inspect(data, LIMITS)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),  # a phone's, whatever its name says
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIF"),
        (b"\0\0\0\x1cftypisom\0\0\2\0", "a video"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "base64"),
        (b"data:image/png;base64,iVBORw0K", "a data URL"),
    ],
)
def test_what_people_send_instead_is_refused_by_its_name(start: bytes, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"bytes of {name}.* convert it to one of JPEG, PNG"):
        inspect(start + bytes(40), LIMITS)


def test_a_png_for_apps_is_refused_by_its_name() -> None:
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 4, b"CgBI", 0x50002002, 0x2BD5B306)
    with pytest.raises(InvalidRequest, match="Apple's extension CgBI is not read"):
        inspect(data, LIMITS)


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for function in (inspect, decode):
        with pytest.raises(InvalidRequest, match=f"{len(data)} bytes"):
            function(data, LIMITS)


def test_too_many_bytes_are_refused_with_both_numbers() -> None:
    data = saved(Image.fromarray(noise(9, 9, 3)), "PNG")
    assert inspect(data, ImageLimits(max_bytes=len(data))).width == 9
    with pytest.raises(Overloaded, match=f"{len(data)} bytes, at most {len(data) - 1}"):
        inspect(data, ImageLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (60_000, 60_000, "more than 100000000 pixels in all"),
        (10_001, 10_000, "more than 100000000 pixels in all"),
        (65_536, 2, "65536 x 2 pixels, at most 65535 on a side"),
        (2, 65_536, "2 x 65536 pixels, at most 65535 on a side"),
    ],
)
def test_too_many_pixels_are_refused_from_the_header(width: int, height: int, reason: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        for function in (inspect, decode):
            with pytest.raises(InvalidRequest, match=reason):
                function(huge_png(width, height), LIMITS)
    assert not seen


def test_an_animation_that_claims_a_large_frame_takes_no_memory_for_it() -> None:
    """Pillow fills the frame while it opens a file that asks for its background behind it."""
    side = 20_000
    data = (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
        + b"\x21\xf9\x04\x08\x00\x00\x00\x00"
        + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02"
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (inspect, decode):
        with pytest.raises(InvalidRequest, match="pixels in all"):
            function(data, LIMITS)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < side * side / 2


def test_a_small_image_of_a_huge_tile_is_refused() -> None:
    # Tag and value; the tile's bytes are said to be the file's first.
    size, tile = {256: 16, 257: 16}, {322: 2**15, 323: 2**15, 324: 0, 325: 8}
    tags = {**size, 258: 8, 259: 8, 262: 1, 277: 1, **tile}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    for function in (inspect, decode):
        with pytest.raises(InvalidRequest, match="pixels in its tiles"):
            function(data, LIMITS)


def test_the_largest_allowed_image_gives_no_warning() -> None:
    """Pillow's own limit lies below ours."""
    assert inspect(huge_png(10_000, 10_000), LIMITS).width == 10_000


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_data_is_refused(format: str) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), format)
    for kept in (len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InvalidRequest, match=f"{kept} bytes"):
            decode(data[:kept], LIMITS)


def test_damaged_data_is_refused_or_decoded_but_never_anything_else() -> None:
    random = np.random.default_rng(3)
    refusals = []
    for format in FORMATS:
        whole = saved(Image.fromarray(noise(24, 24, 3)), format)
        for _ in range(150):
            data = bytearray(whole)
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(256)
            try:
                assert decode(bytes(data), ImageLimits(max_pixels=10_000)).mode == "RGB"
            except InvalidRequest as error:
                refusals.append(str(error))
    assert 0 < len(refusals) < 150 * len(FORMATS)
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(format: str, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)  # red top left, green top right, blue bottom left
    upright[:16, :16], upright[:16, 32:], upright[16:, :16] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    )
    # How a camera stores it; row and column 0 are as Exif 2.32 defines each value.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, quality=95)
    difference = pixels(data).astype(int) - upright
    assert np.abs(difference).mean() < 8


def test_broken_exif_does_not_spoil_the_image() -> None:
    data = saved(Image.fromarray(noise(8, 8, 3)), "JPEG", exif=b"Exif\0\0not a header at all")
    assert decode(data, LIMITS).size == (8, 8)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_alpha_becomes_white(format: str) -> None:
    rgba = noise(16, 16, 4)
    np.testing.assert_allclose(
        pixels(saved(Image.fromarray(rgba), format)).astype(int),
        over_white(rgba[..., :3], rgba[..., 3]),
        atol=1,
    )


def test_opaque_and_clear_pixels_are_exact() -> None:
    rgba = noise(16, 16, 4)
    rgba[:8, :, 3], rgba[8:, :, 3] = 255, 0
    result = pixels(saved(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(result[:8], rgba[:8, :, :3])
    assert (result[8:] == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_with_alpha_becomes_white(format: str) -> None:
    la = noise(16, 16, 2)
    expected = over_white(grey_rgb(la[..., 0]), la[..., 1])
    result = pixels(saved(Image.fromarray(la, "LA"), format)).astype(int)
    np.testing.assert_allclose(result, expected, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_premultiplied_alpha_is_understood(mode: str) -> None:
    """Pillow reads such TIFF images but cannot write them: the tag says how alpha is meant."""
    grey, alpha = np.full((4, 4), 200, np.uint8), np.full((4, 4), 128, np.uint8)
    stored = [np.rint(grey * (alpha / 255)).astype(np.uint8)] * (len(mode) - 1) + [alpha]
    plain, premultiplied = (struct.pack("<HHIH", 338, 3, 1, meaning) for meaning in (2, 1))
    data = saved(Image.fromarray(np.dstack(stored), mode), "TIFF")
    assert data.count(plain) == 1
    result = pixels(data.replace(plain, premultiplied)).astype(int)
    np.testing.assert_allclose(result, over_white(grey_rgb(grey), alpha), atol=2)


def test_a_transparent_palette_colour_becomes_white() -> None:
    indices = (noise(8, 8) % 3).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])[indices]
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(pixels(saved(image, format, transparency=1)), expected)


def test_a_palette_with_alpha_becomes_white() -> None:
    indices = (noise(8, 8) % 2).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    result = pixels(saved(image, "PNG", transparency=bytes([255, 0])))
    np.testing.assert_array_equal(result, np.array([[255, 0, 0], [255, 255, 255]])[indices])


def test_a_transparent_colour_of_rgb_becomes_white() -> None:
    original = noise(8, 8, 3)
    original[2:4] = (1, 2, 3)
    result = pixels(saved(Image.fromarray(original), "PNG", transparency=(1, 2, 3)))
    original[2:4] = 255
    np.testing.assert_array_equal(result, original)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(format: str) -> None:
    grey = noise(32, 32, dtype=np.uint16)
    grey[0, :2] = 0, 65535
    expected = grey_rgb(np.rint(grey / 257).astype(np.uint8))
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(grey), format)), expected)


def test_a_transparent_value_of_sixteen_bit_grey_becomes_white() -> None:
    grey = np.array([[0, 1000, 65535]], np.uint16)
    data = saved(Image.fromarray(grey), "PNG", transparency=1000)
    np.testing.assert_array_equal(pixels(data)[0, :, 0], [0, 255, 255])


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("1", "PNG"),
        ("1", "BMP"),
        ("L", "JPEG"),
        ("P", "BMP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
    ],
)
def test_other_colour_models_are_converted(mode: str, format: str) -> None:
    image = Image.new("RGB", (16, 16), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 8, 16))
    if mode == "LAB":
        lab = np.zeros((16, 16, 3), np.uint8)
        lab[:, 8:, 0] = 255
        image = Image.fromarray(lab, "LAB")
    data = saved(image.convert(mode) if mode != "LAB" else image, format)
    result = pixels(data).astype(int)
    assert result[:, :7].max() < 40
    assert result[:, 9:].min() > 215


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[4, 4].tolist() == [255, 0, 0]
