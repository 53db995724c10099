"""A comparison as one HTML file that needs no other: images with both captions side by side."""

import base64
import io
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from glm4v.images import ImageLimits
from glm4v.images.pixels import decode
from offline.image_folder import read_image
from precision.comparison import TIE, Comparison
from precision.comparison_report import Pairs, rows, verdict_line
from precision.scores import CaptionScore, JudgeRecord, Pair

MOST = 200  # images on a page, 2 to 4 MB
_SIDE = 224  # pixels
_QUALITY = 80


def page(
    found: Comparison,
    pairs: Pairs,
    judge: JudgeRecord,
    names: tuple[str, str],
    images: Mapping[str, Path],
) -> str:
    """The page, the images that differ most first. `images` has the file of each of them."""
    ordered = sorted(pairs, key=lambda pair: -abs(_difference(pair)))
    shown = ordered[:MOST]
    left = f"{len(ordered) - len(shown)} more are left out." if len(ordered) > MOST else ""
    template = Template((files("precision") / "comparison_page.html").read_text(encoding="utf-8"))
    return template.substitute(
        first=escape(names[0]),
        second=escape(names[1]),
        judge=escape(str(judge)),
        verdict=escape(verdict_line(found, pairs, judge)),
        figures="".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows(found, pairs)
        ),
        order=f"Images that differ most come first. {left}",
        rows="".join(_row(pair, images[pair.name]) for pair in shown),
    )


def _difference(pair: Pair) -> float:
    return pair.second.score - pair.first.score


def _row(pair: Pair, path: Path) -> str:
    name, first, second = pair
    difference = _difference(pair)
    side = "" if abs(difference) < TIE else "better" if difference > 0 else "worse"
    return (
        f'<tr><td><img alt="" src="{_thumbnail(path)}">{escape(name)}</td>'
        f'<td class="caption" dir="auto">{_caption(first)}</td>'
        f'<td class="caption" dir="auto">{_caption(second)}</td>'
        f'<td class="number">{first.score:.4f}</td><td class="number">{second.score:.4f}</td>'
        f'<td class="number {side}">{difference:+.4f}</td></tr>\n'
    )


def _caption(score: CaptionScore) -> str:
    read, unread = score.caption[: score.judged], score.caption[score.judged :]
    return escape(read) + (f'<span class="unread">{escape(unread)}</span>' if unread else "")


def _thumbnail(path: Path) -> str:
    """A data URL of the image as the model saw it, but small."""
    image = decode(read_image(path), ImageLimits())
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
