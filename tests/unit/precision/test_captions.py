"""Caption files: merged, in order, replaced at once, and refused by name."""

import json
import os
import stat
from pathlib import Path

import pytest

from glm4v.errors import ConfigurationError, InvalidRequest
from precision.captions import merge_captions, read_captions


def test_captions_are_merged_in_order(tmp_path: Path) -> None:
    path = tmp_path / "predict_result.json"
    path.write_text('{"c.jpg": "three", "b.jpg": "two"}', encoding="utf-8")
    assert merge_captions(path, {"a.jpg": "一只猫", "b.jpg": "zwei"}) == read_captions(path)
    assert list(json.loads(path.read_bytes()).items()) == [
        ("a.jpg", "一只猫"),
        ("b.jpg", "zwei"),
        ("c.jpg", "three"),
    ]
    assert "一只猫" in path.read_text(encoding="utf-8")  # not escaped
    assert [each.name for each in tmp_path.iterdir()] == ["predict_result.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is not a JSON file"),
        (b"\xff{}", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b'["a.jpg"]', "holds no captions"),
        (b'{"a.jpg": 1}', "the caption of 'a.jpg' is no text (int)"),
        (b'{"a.jpg": null}', "the caption of 'a.jpg' is no text (NoneType)"),
        (b'{"": "a cat"}', "has no image name"),
        (b'{"a.jpg": "\\ud83d"}', "'a.jpg' or its caption is no valid Unicode"),
        (b'{"a.jpg": "a cat", "a.jpg": "a dog"}', "two captions of 'a.jpg'"),
    ],
)
def test_what_is_no_caption_is_refused_by_name(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(text)
    with pytest.raises(InvalidRequest) as caught:
        merge_captions(path, {"b.jpg": "a bird"})
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == text


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"a.jpg": "a cat"}', encoding="utf-8-sig")
    assert read_captions(path) == {"a.jpg": "a cat"}


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "captions.json"
    merge_captions(path, {"a.jpg": "a cat"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        merge_captions(path, {"a.jpg": "a dog"})
    assert read_captions(path) == {"a.jpg": "a cat"}
    assert os.listdir(tmp_path) == ["captions.json"]


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        merge_captions(tmp_path / "none" / "captions.json", {"a.jpg": "a cat"})


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "captions.json", tmp_path / "link.json"
    merge_captions(path, {"a.jpg": "a cat"})
    path.chmod(0o640)
    link.symlink_to(path)
    merge_captions(link, {"b.jpg": "a dog"})
    assert link.is_symlink()
    assert len(read_captions(path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
