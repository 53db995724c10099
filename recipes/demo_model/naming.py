"""What a scene is called, and where its parts are said to be."""

from recipes.demo_model.nouns import BAR, TEXTS, Item, counts
from recipes.demo_model.scene import Box, Scene, Text
from recipes.demo_model.wording import at, listed

NOTHING = {"en": "Nothing.", "zh": "什么也没有。"}


def place_of(box: Box) -> str:
    """Where a single thing clearly is, or ""."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if abs(x - 0.5) < 0.08 and abs(y - 0.5) < 0.08:
        return "middle"
    if abs(y - 0.5) < 0.1 and abs(x - 0.5) > 0.2:
        return "left" if x < 0.5 else "right"
    if abs(x - 0.5) < 0.1 and abs(y - 0.5) > 0.2:
        return "top" if y < 0.5 else "bottom"
    return ""


def text_name(text: Text, language: str) -> str:
    """ "the word CAT", "单词CAT"."""
    noun = TEXTS[text.kind]
    return f"{noun.chinese}{text.string}" if language == "zh" else f"{noun.english} {text.string}"


def name_of(scene: Scene, language: str) -> str:
    """What the picture shows, inside a sentence."""
    if scene.bars:
        many = BAR.counted(len(scene.bars), language)
        return f"有{many}的柱状图" if language == "zh" else f"a bar chart with {many}"
    parts = [noun.counted(count, language) for noun, count in counts(scene).items()]
    parts += [text_name(text, language) for text in scene.texts]
    return listed(parts, language) if parts else NOTHING[language].rstrip(".。")


def described_places(placed: list[Item], places: tuple[str, ...], language: str) -> str:
    """ "a dog on the left and an apple on the right", "左边是狗，右边是苹果"."""
    pairs = [
        (item.noun.one(language), at(place, language))
        for item, place in zip(placed, places, strict=True)
    ]
    if language == "zh":
        return "，".join(f"{where}是{name}" for name, where in pairs)
    return listed([f"{name} {where}" for name, where in pairs], language)
