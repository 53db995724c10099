"""Which files of a folder are images."""

from pathlib import Path

import pytest

from glm4v.errors import InvalidRequest
from offline.image_folder import images_in


def test_images_come_by_name_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("2.png", "10.jpeg", "1.TIF", "labels.json", ".DS_Store"):
        (tmp_path / name).touch()
    assert [each.name for each in images_in(tmp_path)] == ["1.TIF", "10.jpeg", "2.png"]


def test_a_folder_without_images_says_what_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"has no image; files named \.bmp, \.gif, \.jpeg"):
        images_in(tmp_path)
    with pytest.raises(InvalidRequest, match="cannot be read as a folder"):
        images_in(tmp_path / "missing")
