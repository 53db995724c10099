"""What an image file may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds the memory and the time that reading and decoding a file can take.

    Formats let a small file repeat what costs time; each of these is counted before decoding.
    """

    max_bytes: int = 20 * 2**20  # of the file
    max_pixels: int = 100_000_000
    max_side: int = 65_535  # pixels, the most JPEG has; resizing needs memory for each line
    max_parts: int = 100_000  # segments, chunks, blocks, strips or tiles of a file
    max_entries: int = 1_000  # of a TIFF directory
    max_scans: int = 64  # of a JPEG; each goes over all pixels, and encoders write about ten
    max_run_pixels: int = 16_000_000  # of a BMP with run lengths, which Pillow decodes in Python
