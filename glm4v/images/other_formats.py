"""Formats that are not decoded, by their names: phones save HEIC, often in files named .jpg.

Sources: ISO/IEC 14496-12 (`ftyp`), its brands in 23008-12 (HEIF) and the AVIF specification;
ISO/IEC 15444-1 and 18181-2; ISO 32000-1; SVG 2; Adobe Photoshop file format; RFC 2397.
"""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
}
_STARTS = {
    b"%PDF-": "PDF",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"data:": "a data URL (send the bytes that it holds)",
    b"iVBORw0KGgo": "base64 (send the bytes that it stands for)",
    b"/9j/": "base64 (send the bytes that it stands for)",
}
_TEXT_BYTES = 1024  # at the start, within which markup says what it is


def name(data: bytes) -> str | None:
    """What a file that is not decoded is called; None where it is not known."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video (MP4 or the like)")
    for start, format in _STARTS.items():
        if data.startswith(start):
            return format
    text = data[:_TEXT_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "SVG"
    return None
