"""`glm4v bench offline`: which image it takes, and MindIE's variables."""

from pathlib import Path

import pytest

from bench.offline_command import benchmark_path, offline
from glm4v.errors import InvalidRequest


def test_two_images_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidRequest, match=r"has 2 images \(a\.png, b\.JPG\); .* takes one"):
        offline(tmp_path)


def test_a_file_that_is_no_image_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    missing, text = tmp_path / "photo.jpg", tmp_path / "notes.png"
    text.write_text("no image")
    with pytest.raises(InvalidRequest, match=r"photo\.jpg cannot be read as an image or a folder"):
        offline(missing, model=tmp_path)
    with pytest.raises(InvalidRequest, match=r"notes\.png: "):
        offline(tmp_path, model=tmp_path)


def test_benchmark_csv_is_written_where_the_variables_say() -> None:
    enable = {"ATB_LLM_BENCHMARK_ENABLE": "1"}
    assert benchmark_path(enable) == Path("benchmark_result/benchmark.csv")
    assert benchmark_path({**enable, "ATB_LLM_BENCHMARK_FILEPATH": "/a/b.csv"}) == Path("/a/b.csv")


def test_a_path_alone_writes_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_path({"ATB_LLM_BENCHMARK_FILEPATH": "/a/b.csv"}) is None
    assert "/a/b.csv is not written" in capsys.readouterr().err
    assert benchmark_path({"ATB_LLM_BENCHMARK_ENABLE": "0"}) is None
    assert capsys.readouterr().err == ""
