"""Strings to read: numbers, words and Chinese characters, and which of them training may show.

A tenth of all numbers, random letters and rows of Chinese characters of three or more, by a hash,
and a list of real words are for evaluation only.
"""

import csv
import zlib
from functools import cache
from pathlib import Path
from random import Random

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = (
    "一二三四五六七八九十人口日月水火山木石田土天地大小上下中左右"
    "手心目耳你我他好爱家国学生书车马牛羊鱼鸟花草红白黑风雨电门米"
)


@cache
def known(kind: str) -> tuple[str, ...]:
    """The strings of words.csv of a kind: "word", "held out word" or "phrase"."""
    with Path(__file__).with_name("words.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["string"] for row in csv.DictReader(file) if row["kind"] == kind)


def is_held_out(string: str) -> bool:
    """Whether a number, random letters or a row of characters is for evaluation only."""
    if string in known("word") or string in known("phrase"):
        return False
    return zlib.crc32(string.encode()) % 10 == 0 or string in known("held out word")


def _drawn(rng: Random, alphabet: str, length: int, split: str) -> str:
    while True:
        string = "".join(rng.choices(alphabet, k=length))
        if length < 3 or is_held_out(string) == (split == "held_out"):
            return string


def number(rng: Random, split: str) -> str:
    """1 to 6 digits; those of one or two digits are in both splits."""
    length = rng.choice((1, 2, 3, 4, 5, 6))
    while True:
        string = _drawn(rng, DIGITS, length, split)
        if length == 1 or string[0] != "0":
            return string


def word(rng: Random, split: str) -> str:
    """2 to 6 capital letters: a word of the language half of the time."""
    if rng.random() < 0.5:
        return rng.choice(known("held out word" if split == "held_out" else "word"))
    return _drawn(rng, LETTERS, rng.choice((2, 3, 4, 5, 6)), split)


def characters(rng: Random, split: str) -> str:
    """1 to 3 Chinese characters: a phrase a third of the time."""
    if split == "train" and rng.random() < 0.33:
        return rng.choice(known("phrase"))
    return _drawn(rng, CHARACTERS, rng.choice((1, 2, 2, 3, 3)), split)
