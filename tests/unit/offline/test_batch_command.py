"""`glm4v batch`: which question is asked about which image."""

from pathlib import Path

import pytest

from glm4v.errors import InvalidRequest
from offline.batch_command import questions_for
from offline.image_folder import GUIDE_QUESTION


def test_the_last_question_is_asked_about_all_further_images(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("\ufeffWhat?\n\n哪里？\n", encoding="utf-8")
    assert questions_for([], file, 3) == ["What?", "哪里？", "哪里？"]
    assert questions_for(["What?"], None, 2) == ["What?", "What?"]
    assert questions_for([], None, 2) == [GUIDE_QUESTION] * 2


def test_questions_that_cannot_be_asked_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("\n")
    with pytest.raises(InvalidRequest, match="has no question; write one on each line"):
        questions_for([], file, 1)
    with pytest.raises(InvalidRequest, match="with --question or in a file, not both"):
        questions_for(["a"], file, 1)
    with pytest.raises(InvalidRequest, match="there are 2 questions and 1 images"):
        questions_for(["a", "b"], None, 1)
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="is not UTF-8"):
        questions_for([], file, 1)
