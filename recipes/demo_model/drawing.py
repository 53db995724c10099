"""Draws a scene at any size."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from recipes.demo_model import background, sources, typeface
from recipes.demo_model.palette import Rgb
from recipes.demo_model.scene import Bar, Box, Effects, PlacedThing, Scene, Shape, Text
from recipes.demo_model.shapes import mask

SIZE = 224  # of a training picture

At = tuple[int, int]  # left and top, in pixels


def draw(scene: Scene, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """The picture, RGB."""
    picture = background.draw(scene.background, width, height)
    for thing in scene.things:
        _draw_thing(picture, thing)
    for shape in scene.shapes:
        _draw_shape(picture, shape)
    for bar in scene.bars:
        _draw_bar(picture, bar)
    for text in scene.texts:
        _draw_text(picture, text)
    return _with_effects(picture, scene.effects)


@cache
def sprite(vendor: str, code_point: str, mirrored: bool = False) -> Image.Image:
    """A drawing without its empty margin."""
    image = sources.drawing(vendor, code_point)
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


@cache
def mean_colour(vendor: str, code_point: str) -> Rgb:
    """What a drawing looks like from afar."""
    pixels = np.asarray(sprite(vendor, code_point), dtype=np.float64).reshape(-1, 4)
    rgb = (pixels[:, :3] * pixels[:, 3:]).sum(axis=0) / pixels[:, 3].sum()
    return round(rgb[0]), round(rgb[1]), round(rgb[2])


def pixels(box: Box, picture: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box in a picture."""
    left, right = round(box[0] * picture.width), round(box[2] * picture.width)
    top, bottom = round(box[1] * picture.height), round(box[3] * picture.height)
    return left, top, max(1, right - left), max(1, bottom - top)


def stencil(placed: PlacedThing | Shape, picture: Image.Image) -> tuple[Image.Image, At]:
    """The mask of a thing or a shape in a picture of this size, and where it is pasted."""
    image, at = _image_of(placed, picture)
    return (image if isinstance(placed, Shape) else image.getchannel("A")), at


def _image_of(placed: PlacedThing | Shape, picture: Image.Image) -> tuple[Image.Image, At]:
    """A thing's RGBA, or a shape's mask, in the size it has in the picture."""
    left, top, width, height = pixels(placed.box, picture)
    if isinstance(placed, Shape):
        image = mask(placed.kind.name).resize((width, height), Image.Resampling.BICUBIC)
        if placed.angle:
            image = image.rotate(placed.angle, Image.Resampling.BICUBIC, expand=True)
    else:
        image = sprite(placed.vendor, placed.thing.code_point, placed.mirrored)
        size = image.size
        if placed.angle:
            image = image.rotate(placed.angle, Image.Resampling.BICUBIC, expand=True)
        wide = max(1, round(width * image.width / size[0]))
        tall = max(1, round(height * image.height / size[1]))
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return image, (left + (width - image.width) // 2, top + (height - image.height) // 2)


def _draw_thing(picture: Image.Image, placed: PlacedThing) -> None:
    image, at = _image_of(placed, picture)
    picture.paste(image, at, image)


def _draw_shape(picture: Image.Image, shape: Shape) -> None:
    image, at = _image_of(shape, picture)
    picture.paste(shape.rgb, (*at, at[0] + image.width, at[1] + image.height), image)


def _draw_bar(picture: Image.Image, bar: Bar) -> None:
    left, top, width, height = pixels(bar.box, picture)
    ImageDraw.Draw(picture).rectangle((left, top, left + width, top + height), bar.rgb)
    _draw_text(picture, bar.label)


def _draw_text(picture: Image.Image, text: Text) -> None:
    for character, box in zip(text.string, text.boxes, strict=True):
        left, top, width, height = pixels(box, picture)
        image = typeface.scaled(text.font, character, width, height)
        picture.paste(text.rgb, (left, top, left + width, top + height), image)


def _with_effects(picture: Image.Image, effects: Effects) -> Image.Image:
    if effects.blur:
        radius = effects.blur * min(picture.size) / SIZE
        picture = picture.filter(ImageFilter.BoxBlur(radius))
    if (effects.brightness, effects.contrast) != (1.0, 1.0):
        levels = [((v - 128) * effects.contrast + 128) * effects.brightness for v in range(256)]
        picture = picture.point([round(min(max(level, 0), 255)) for level in levels] * 3)
    if effects.noise:
        grain = _grain(picture.width, picture.height, effects.seed % 4) * effects.noise
        noisy = np.asarray(picture) + grain.astype(np.int16)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return picture


@cache
def _grain(width: int, height: int, seed: int) -> np.typing.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((height, width, 3), np.float32)
