"""Which files of a folder are images."""

from pathlib import Path

import pytest

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.errors import InvalidRequest
from offline.image_folder import images_in, read_image


def test_images_come_by_name_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("2.png", "10.jpeg", "1.TIF", "labels.json", ".DS_Store"):
        (tmp_path / name).touch()
    assert [each.name for each in images_in(tmp_path)] == ["1.TIF", "10.jpeg", "2.png"]


def test_a_folder_without_images_says_what_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"has no image; files named \.bmp, \.gif, \.jpeg"):
        images_in(tmp_path)
    with pytest.raises(InvalidRequest, match="as an image or a folder: No such file"):
        images_in(tmp_path / "missing")


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo").touch()
    assert images_in(tmp_path / "photo") == [tmp_path / "photo"]


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    good = DEMO_MODEL / "examples/dog.png"
    assert read_image(good) == good.read_bytes()
    bad = tmp_path / "notes.png"
    bad.write_text("no image")
    with pytest.raises(InvalidRequest, match=r"notes\.png: "):
        read_image(bad)
