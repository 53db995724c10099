"""How things are asked: several wordings of each question in each language.

A slot in braces is filled by the question: `a` (a dog), `the` (the dog), `many` (dogs), `at` (on
the left), `be` (is, or are for scissors), `it` (it, or they), `unit` (the measure word).
"""

from random import Random

_Wordings = dict[str, tuple[str, ...]]

_ENGLISH: _Wordings = {
    "name": (
        "What is this?",
        "What's in the picture?",
        "What do you see?",
        "What is in this picture?",
        "What does the picture show?",
        "What can you see?",
    ),
    "describe": (
        "Describe the picture.",
        "Describe this image in one sentence.",
        "Tell me about the picture.",
        "Please describe the image.",
        "Give a short description of the picture.",
    ),
    "where": (
        "Where {be} {the}?",
        "Where {be} {the} in the picture?",
        "In which part of the picture {be} {the}?",
        "Where can you see {the}?",
    ),
    "what at": (
        "What is {at}?",
        "What's {at}?",
        "What do you see {at}?",
        "What can you see {at}?",
        "What is {at} of the picture?",
    ),
    "count": (
        "How many {many} are there?",
        "How many {many} are in the picture?",
        "How many {many} can you see?",
        "How many {many} do you see?",
        "Count the {many}.",
    ),
    "exists": (
        "{Be} there {a}?",
        "{Be} there {a} in the picture?",
        "Can you see {a}?",
        "Do you see {a}?",
        "Does the picture show {a}?",
    ),
    "colour": (
        "What colour is {the}?",
        "What color is {the}?",
        "Which colour is {the}?",
        "What is the colour of {the}?",
        "Tell me the colour of {the}.",
    ),
    "shape": (
        "What shape is this?",
        "Which shape is it?",
        "What shape do you see?",
        "What shape is in the picture?",
    ),
    "read": (
        "What does it say?",
        "What is written in the picture?",
        "Read the text.",
        "What does the text say?",
        "What is written here?",
    ),
    "read number": (
        "What number is this?",
        "Read the number.",
        "Which number do you see?",
        "What is the number?",
        "What number is in the picture?",
    ),
    "read word": (
        "What word is this?",
        "Read the word.",
        "Which word do you see?",
        "What is the word?",
        "What word is in the picture?",
    ),
    "read characters": (
        "Read the characters.",
        "What characters are these?",
        "Which Chinese characters do you see?",
        "What are the characters?",
        "What Chinese text is in the picture?",
    ),
    "extreme": (
        "Which bar is the {most}?",
        "Which is the {most} bar?",
        "What is the {most} bar?",
        "Which one of the bars is the {most}?",
    ),
    "then where": ("Where {be} {it}?", "And where {be} {it}?", "Where in the picture {be} {it}?"),
    "then at": ("And {at}?", "What about {at}?", "And what is {at}?"),
    "then this": ("And {the}?", "What about {the}?"),
    "then colour": ("What colour is it?", "And what colour is it?", "What color is it?"),
    "then background": ("And the background?", "What about the background?"),
    "then is it": ("{Be} {it} {a}?", "So {be} {it} {a}?"),
    "then count": ("How many are there?", "How many of them are there?", "And how many?"),
}

_CHINESE: _Wordings = {
    "name": (
        "这是什么？",
        "图片里有什么？",
        "你看到了什么？",
        "图中是什么？",
        "图里有什么？",
        "这张图片里有什么？",
    ),
    "describe": (
        "描述一下这张图片。",
        "请用一句话描述图片。",
        "请描述图片。",
        "说说这张图片。",
        "描述图片的内容。",
    ),
    "where": ("{the}在哪里？", "{the}在图片的什么位置？", "{the}在哪儿？", "{the}在什么地方？"),
    "what at": ("{at}是什么？", "{at}有什么？", "图片{at}是什么？", "{at}的东西是什么？"),
    "count": (
        "有几{unit}{many}？",
        "图片里有几{unit}{many}？",
        "图中有多少{unit}{many}？",
        "一共有几{unit}{many}？",
        "数一数有几{unit}{many}。",
    ),
    "exists": ("图片里有{a}吗？", "有{a}吗？", "图中有没有{a}？", "图里有{a}吗？", "有没有{a}？"),
    "colour": (
        "{the}是什么颜色？",
        "{the}是什么颜色的？",
        "{the}的颜色是什么？",
        "{the}什么颜色？",
    ),
    "shape": ("这是什么形状？", "图中是什么形状？", "图片里是什么形状？", "你看到什么形状？"),
    "read": (
        "写的是什么？",
        "图片里写着什么？",
        "图中写了什么？",
        "上面写着什么？",
        "读一下文字。",
    ),
    "read number": (
        "这是什么数字？",
        "读出这个数字。",
        "图片里的数字是什么？",
        "图中的数字是多少？",
        "这个数字是多少？",
    ),
    "read word": (
        "这是什么单词？",
        "读出这个单词。",
        "图片里的单词是什么？",
        "图中的单词是什么？",
        "这个单词是什么？",
    ),
    "read characters": (
        "这是什么字？",
        "读出这些字。",
        "图片里写的是什么字？",
        "图中的汉字是什么？",
        "这些汉字是什么？",
    ),
    "extreme": (
        "哪个柱子{most}？",
        "{most}的柱子是哪个？",
        "哪根柱子{most}？",
        "哪一个柱子{most}？",
    ),
    "then where": ("它在哪里？", "那它在哪儿？", "它在什么位置？", "在哪里？"),
    "then at": ("{at}呢？", "那{at}呢？", "{at}又是什么？"),
    "then this": ("{the}呢？", "那{the}呢？"),
    "then colour": ("它是什么颜色？", "是什么颜色的？", "那它是什么颜色的？"),
    "then background": ("背景呢？", "那背景呢？"),
    "then is it": ("它是{a}吗？", "那它是{a}吗？"),
    "then count": ("有几{unit}？", "一共有几{unit}？", "有多少{unit}？"),
}

_WORDINGS = {"en": _ENGLISH, "zh": _CHINESE}

PLACES = {  # (where it is, what is there)
    "left": ("on the left", "左边"),
    "right": ("on the right", "右边"),
    "top": ("at the top", "上面"),
    "bottom": ("at the bottom", "下面"),
    "middle": ("in the middle", "中间"),
    "top left": ("at the top left", "左上角"),
    "top right": ("at the top right", "右上角"),
    "bottom left": ("at the bottom left", "左下角"),
    "bottom right": ("at the bottom right", "右下角"),
}
EXTREMES = {
    "largest": {"en": ("largest", "tallest", "biggest", "highest"), "zh": ("最高", "最大")},
    "smallest": {"en": ("smallest", "shortest", "lowest"), "zh": ("最矮", "最小")},
}


def ask(rng: Random, language: str, question: str, **slots: str) -> str:
    """One of a question's wordings, filled."""
    return rng.choice(_WORDINGS[language][question]).format(**slots)


def at(place: str, language: str) -> str:
    """ "on the left", "左边"."""
    english, chinese = PLACES[place]
    return chinese if language == "zh" else english


def sentence(text: str, language: str) -> str:
    """With a capital and a full stop."""
    return f"{text}。" if language == "zh" else f"{text[0].upper()}{text[1:]}."


def listed(parts: list[str], language: str, comma: str = "、") -> str:
    """ "a, b and c"."""
    if language == "zh":
        return comma.join(parts[:-1]) + "和" + parts[-1] if len(parts) > 1 else parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
