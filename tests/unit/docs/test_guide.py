"""The guide says the same in both languages. Commands that no test types exist."""

import re
from itertools import groupby

import pytest

from tests.documentation import (
    CHINESE_GUIDE,
    GUIDE,
    NOT_TYPED,
    PAGES,
    ROOT,
    blocks,
    headings,
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def rows_of_tables(page: str) -> list[int]:
    tables = groupby(text_of(page).splitlines(), lambda line: line.startswith("|"))
    return [len(list(lines)) for is_table, lines in tables if is_table]


def literals(page: str) -> set[str]:
    """What is set in the type of code, in paragraphs and tables."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`]+)`", prose))


def test_both_languages_have_the_same_chapters_and_tables() -> None:
    levels = [[line.split(" ")[0] for line in headings(page)] for page in (GUIDE, CHINESE_GUIDE)]
    assert levels[0] == levels[1]
    assert rows_of_tables(GUIDE) == rows_of_tables(CHINESE_GUIDE)


@pytest.mark.parametrize("language", ["sh", ""])
def test_both_languages_have_the_same_commands(language: str) -> None:
    texts = [[block.text for block in blocks(page, language)] for page in (GUIDE, CHINESE_GUIDE)]
    assert texts[0]
    assert texts[0] == texts[1]


def test_both_languages_name_the_same_things() -> None:
    assert literals(GUIDE) == literals(CHINESE_GUIDE)


def test_the_languages_link_to_each_other() -> None:
    assert "[中文](guide.zh.md)" in text_of(GUIDE)
    assert "[English](guide.md)" in text_of(CHINESE_GUIDE)


@pytest.mark.parametrize(("page", "start"), [(p, s) for p in NOT_TYPED for s in NOT_TYPED[p]])
def test_a_command_that_no_test_types_is_there(page: str, start: str) -> None:
    assert page in PAGES
    assert any(block.text.startswith(start) for block in blocks(page))
