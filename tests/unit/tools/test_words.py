"""The list of words that may not come back."""

from pathlib import Path

import pytest

from tools import words

RULES = words.read_list("# a comment\nrow_ids\ttoken_ids\n[Pp]ictures?\timage\n")


def test_a_word_is_found_with_its_line_and_replacement() -> None:
    found = list(words.search("a.py", "x = 1\nrow_ids = [2]  # of the Pictures\n", RULES))
    assert found == [
        words.Found("a.py", 2, "row_ids", "token_ids"),
        words.Found("a.py", 2, "Pictures", "image"),
    ]


@pytest.mark.parametrize("text", ["arrow_ids", "row_idst", "picturesque", "PICTURE"])
def test_parts_of_other_words_are_not_found(text: str) -> None:
    assert list(words.search("a.py", text, RULES)) == []


def test_folders_of_tools_and_exempt_files_are_left_out(tmp_path: Path) -> None:
    for name in ("gateway/a.py", ".venv/b.py", "gateway/__pycache__/c.py", "CHANGELOG.md", "d.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("picture")
    assert list(words.project_files(tmp_path)) == ["gateway/a.py"]


def test_every_rule_of_the_list_can_be_read() -> None:
    rules = words.read_list(words.LIST.read_text(encoding="utf-8"))
    assert len(rules) > 20
    assert all(replacement for _, replacement in rules)
