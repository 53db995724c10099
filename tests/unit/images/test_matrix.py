"""Every form of PNG, TIFF, BMP and JPEG is shown as its specification has it, or refused by name.

The files are written byte by byte, and the pixels they must give computed from the samples that
were written. `referees` compares both with other decoders.
"""

import re
from collections import defaultdict

import numpy as np
import pytest

from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits, inspect
from glm4v.images.pixels import decode
from tests.unit.images import bmp, jpeg, png, tiff
from tests.unit.images.case import Case

LIMITS = ImageLimits()

FORMS: defaultdict[str, list[Case]] = defaultdict(list)
for module in (png, tiff, bmp, jpeg):
    for case in module.cases():
        FORMS[case.form].append(case)


def fault(case: Case) -> str | None:
    """What is wrong with the answer to a file."""
    try:
        inspect(case.data, LIMITS)
        seen = np.asarray(decode(case.data, LIMITS), float)
    except InvalidRequest as error:
        if case.refused is None or not re.search(case.refused, str(error)):
            return f"refused: {error}"
        return None
    if case.refused is not None:
        return "not refused"
    if seen.shape != case.pixels.shape:
        return f"has the shape {seen.shape}"
    worst = np.abs(seen - case.pixels).max()
    return f"is off by {worst:.1f}" if worst > case.tolerance else None


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_shown_right_or_refused(form: str) -> None:
    faults = {case.arrangement: found for case in FORMS[form] if (found := fault(case))}
    assert not faults


def test_refusals_come_from_the_header() -> None:
    """So the gateway gives them, and nothing is queued."""
    refused = [case for cases in FORMS.values() for case in cases if case.refused is not None]
    assert len(refused) > 500
    for case in refused:
        with pytest.raises(InvalidRequest, match=case.refused):
            inspect(case.data, LIMITS)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"workflow\0\0" + png.compressed(b"{}" * 2**20)),
        (b"iTXt", b"prompt\0\1\0\0\0" + png.compressed("图".encode() * 2**19)),
        (b"iCCP", b"scanner\0\0" + png.compressed(bytes(1_300_000))),
        (b"eXIf", bytes(2**17)),
        (b"zTXt", b"Raw profile type exif\0\0" + png.compressed(bytes(2**21))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + png.compressed(bytes(2**21))),
    ],
)
def test_large_metadata_of_a_png_says_nothing_about_its_pixels(kind: bytes, content: bytes) -> None:
    values = np.arange(12).reshape(2, 2, 3)
    for where in ("before", "behind"):
        chunk = png.chunk(kind, content)
        data = png.png(values, 8, png.RGB, extra=chunk if where == "before" else b"")
        if where == "behind":
            data = data[:-12] + chunk + data[-12:]
        np.testing.assert_array_equal(np.asarray(decode(data, LIMITS)), values)
