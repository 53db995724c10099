"""Glyphs of the fonts, and strings set in them.

One Latin typeface and one weight of the Chinese one are held out for evaluation. Which numbers and
words may be shown in training is said in `strings.py`.
"""

from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from recipes.demo_model.palette import Colour, Rgb
from recipes.demo_model.scene import Box, Text
from recipes.demo_model.sources import font

LATIN = {
    "train": (
        "truetype/dejavu/DejaVuSans.ttf",
        "truetype/dejavu/DejaVuSans-Bold.ttf",
        "truetype/dejavu/DejaVuSansMono-Bold.ttf",
        "truetype/dejavu/DejaVuSerif-Bold.ttf",
        "truetype/lato/Lato-Bold.ttf",
        "truetype/lato/Lato-Black.ttf",
        "truetype/open-sans/OpenSans-Semibold.ttf",
        "truetype/open-sans/OpenSans-Bold.ttf",
        "truetype/liberation/LiberationSans-Bold.ttf",
        "opentype/cabin/Cabin-Bold.otf",
        "opentype/inter/Inter-SemiBold.otf",
        "opentype/inter/Inter-ExtraBold.otf",
    ),
    "held_out": ("truetype/roboto/unhinted/RobotoTTF/Roboto-Bold.ttf",),
}
CHINESE = {
    "train": (
        "opentype/noto/NotoSansCJK-Bold.ttc",
        "opentype/noto/NotoSerifCJK-Bold.ttc",
    ),
    "held_out": ("opentype/noto/NotoSansCJK-Regular.ttc",),
}
SIMPLIFIED = 2  # which face of a Noto CJK collection has the forms of mainland China
PADDING = 1.24  # a Latin glyph's box is so many times as tall as its capitals


def choose(rng: Random, split: str, kind: str) -> str:
    """A font for a number, a word or Chinese characters."""
    return rng.choice((CHINESE if kind == "characters" else LATIN)[split])


@cache
def glyph(font_name: str, character: str, height: int) -> Image.Image:
    """A character's mask, `height` pixels tall, as wide as it advances."""
    is_chinese = font_name.endswith(".ttc")
    path, index = str(font(font_name)), SIMPLIFIED if is_chinese else 0
    if is_chinese:
        face = ImageFont.truetype(path, height, index=index)
        image = Image.new("L", (height, height))
        ImageDraw.Draw(image).text((0, round(0.88 * height)), character, 255, face, anchor="ls")
        return image
    capital = -ImageFont.truetype(path, 1000).getbbox("H", anchor="ls")[1] / 1000
    face = ImageFont.truetype(path, height / PADDING / capital)
    image = Image.new("L", (max(1, round(face.getlength(character))), height))
    baseline = height * (PADDING + 1) / 2 / PADDING
    ImageDraw.Draw(image).text((0, round(baseline)), character, 255, face, anchor="ls")
    return image


def scaled(font_name: str, character: str, width: int, height: int) -> Image.Image:
    """A character's mask at just this size."""
    reference = 96 if height <= 96 else 512
    return glyph(font_name, character, reference).resize(
        (max(1, width), max(1, height)), Image.Resampling.BICUBIC
    )


def width_of(string: str, font_name: str) -> float:
    """How wide a string is, for a height of 1."""
    return sum(glyph(font_name, character, 96).width for character in string) / 96


def set_text(string: str, kind: str, colour: Colour, rgb: Rgb, font_name: str, box: Box) -> Text:
    """A string that fills a box."""
    left, top, right, bottom = box
    per_unit = (right - left) / width_of(string, font_name) / 96
    boxes: list[Box] = []
    for character in string:
        end = left + glyph(font_name, character, 96).width * per_unit
        boxes.append((left, top, end, bottom))
        left = end
    return Text(string, kind, colour, rgb, font_name, tuple(boxes))
