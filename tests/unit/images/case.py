"""One image file, and the pixels that its specification gives it."""

from dataclasses import dataclass

from tests.unit.images.samples import Samples


@dataclass(frozen=True)
class Case:
    """`refused` is the text of the refusal where the form is not taken."""

    form: str
    arrangement: str
    data: bytes
    pixels: Samples  # [height, width, 3] floats in 0..255, transparency laid over white
    refused: str | None = None
    tolerance: float = 1.0  # steps of 255: 16 bits may be cut or rounded, blending rounds once
