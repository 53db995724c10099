"""The commands `score`, `compare` and `sample-coco`: tables, JSON, a page, and errors that help."""

import json
import os
import re
import runpy
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from glm4v.errors import ConfigurationError, InvalidRequest
from precision.command import command
from precision.sample_command import pick
from tests.unit.precision.conftest import SmallJudge
from tests.unit.precision.test_window import LONG

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "precision" / "clip_score_glm4v.py"
ENGLISH = {"0.png": "a red image", "1.png": "a white one", "2.png": "<b>navy</b> & 'blue'"}
CHINESE = {**ENGLISH, "1.png": LONG}


def run(*arguments: str | Path) -> Result:
    """What the command prints; errors are raised."""
    return CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)


def written(path: Path, captions: Mapping[str, str]) -> Path:
    path.write_text(json.dumps(captions), encoding="utf-8")
    return path


@pytest.fixture
def judged_by(small_judge: SmallJudge, images: Path) -> list[str]:
    """The options of a judge."""
    return [
        *("--judge", str(small_judge.weights), "--model-name", small_judge.model),
        *("--images", str(images)),
    ]


@pytest.fixture
def scores(tmp_path: Path, judged_by: list[str]) -> tuple[Path, Path]:
    """Scores of two files, one each."""
    made = []
    for name, captions in (("a", ENGLISH), ("b", CHINESE)):
        path = written(tmp_path / f"{name}.json", captions)
        made.append(tmp_path / f"{name}.scores.json")
        made[-1].write_text(run("score", path, *judged_by, "--json").stdout, encoding="utf-8")
    return made[0], made[1]


def test_scores_say_how_much_was_judged(tmp_path: Path, judged_by: list[str]) -> None:
    a, b = written(tmp_path / "a.json", ENGLISH), written(tmp_path / "b.json", CHINESE)
    said = run("score", a, b, *judged_by).stdout
    assert re.search(r"0\.png .* all 11 characters", said)
    judged = re.search(rf"1\.png .* the first (\d+) of {len(LONG)} characters", said)
    assert judged is not None
    assert 25 <= int(judged[1]) <= 40
    [line] = [line for line in said.splitlines() if line.startswith(f"{b}:")]
    assert "1 captions (33%) were not read to the end" in line
    assert "small-judge, GELU, float32, 77 tokens" in said
    assert "not read" not in next(line for line in said.splitlines() if line.startswith(f"{a}:"))


def test_scores_in_parts_judge_everything(tmp_path: Path, judged_by: list[str]) -> None:
    said = run("score", written(tmp_path / "b.json", CHINESE), *judged_by, "--parts").stdout
    assert re.search(rf"all {len(LONG)} characters in \d+ parts", said)
    assert "not read to the end" not in said


def test_a_comparison_of_captions_is_that_of_their_scores(
    tmp_path: Path, judged_by: list[str], scores: tuple[Path, Path]
) -> None:
    captions = [tmp_path / "a.json", tmp_path / "b.json"]
    of_captions = json.loads(run("compare", *captions, *judged_by, "--json").stdout)
    of_scores = json.loads(run("compare", *scores, "--json").stdout)
    for name in ("difference", "low", "high", "first_mean"):
        assert of_captions[name] == pytest.approx(of_scores[name], abs=1e-6)
    assert of_captions["verdict"] == of_scores["verdict"]
    assert (of_scores["wins"] + of_scores["losses"], of_scores["ties"]) == (1, 2)
    written = json.loads(scores[0].read_bytes())["files"][0]
    assert of_scores["first_mean"] == pytest.approx(written["mean"])


def test_the_verdict_says_what_speaks_against_it(scores: tuple[Path, Path]) -> None:
    said = run("compare", *scores).stdout
    [line] = [line for line in said.splitlines() if line.startswith("verdict: ")]
    assert "tolerance 0.02" in line
    assert "3 images are fewer than 50" in line
    assert "0 captions of A and 1 of B were not read to the end" in line


def test_equal_captions_are_said_to_be_equal_in_words(tmp_path: Path, judged_by: list[str]) -> None:
    a, b = written(tmp_path / "a.json", ENGLISH), written(tmp_path / "b.json", ENGLISH)
    said = run("compare", a, b, *judged_by).stdout
    assert "no difference at all: all 3 images have the same score" in said
    assert "nan" not in said.lower()
    assert "+0.0000 to +0.0000" in said


class Tags(HTMLParser):
    """The images and the text of a page, and whatever would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        self.tags.add(tag)
        self.images += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        """Collect."""
        self.text += data


def test_the_page_needs_no_other_file_and_escapes_captions(
    tmp_path: Path, scores: tuple[Path, Path], images: Path
) -> None:
    page = tmp_path / "page.html"
    run("compare", *scores, "--images", images, "--page", page)
    tags = Tags()
    html = page.read_text(encoding="utf-8")
    tags.feed(html)
    assert len(tags.images) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.images)
    assert not tags.tags & {"b", "script", "link", "iframe"}
    assert "<b>navy</b> & 'blue'" in tags.text
    assert "fewer than 50" in tags.text
    judged = json.loads(scores[1].read_bytes())["files"][0]["captions"]["1.png"]["judged"]
    assert f'<span class="unread">{LONG[judged:]}</span>' in html
    assert tags.text.index("1.png") < tags.text.index("0.png")  # differs most


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["score", "a.json"], ConfigurationError, "--judge WEIGHTS --images DIR"),
        (["compare", "a.json", "b.json"], ConfigurationError, "--judge WEIGHTS --images DIR"),
        (["compare", "a.json"], InvalidRequest, "two files of captions are compared, 1 are given"),
        (["compare", "a.json", "a.scores.json"], InvalidRequest, "give two of a kind"),
        (["compare", "a.scores.json"], InvalidRequest, "1 are given"),
        (["compare", "a.scores.json", "c.scores.json"], InvalidRequest, "different judges"),
        (
            ["compare", "a.scores.json", "b.scores.json", "--parts"],
            ConfigurationError,
            "do not apply",
        ),
        (
            ["compare", "a.scores.json", "b.scores.json", "--page", "x.html"],
            ConfigurationError,
            "--images",
        ),
        (["compare", "none.json", "a.json"], InvalidRequest, "none.json"),
    ],
)
def test_a_wrong_call_says_what_to_change(
    arguments: list[str],
    error: type[Exception],
    says: str,
    tmp_path: Path,
    scores: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = json.loads(scores[1].read_bytes())
    other["judge"]["weights_sha256"] = "0"
    (tmp_path / "c.scores.json").write_text(json.dumps(other))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        run(*arguments)


def test_the_guides_script_scores_as_the_command_does(
    tmp_path: Path, small_judge: SmallJudge, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = written(tmp_path / "predict_result.json", ENGLISH)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, words: started.append(words))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            *("clip_score_glm4v.py", "--model_weights_path", str(small_judge.weights)),
            *("--model_name", small_judge.model, "--image_info", str(captions)),
            *("--dataset_path", str(images), "--device_ids", "0"),
        ],
    )
    runpy.run_path(str(SCRIPT), run_name="__main__")
    [[_, *words]] = started
    assert words[:3] == ["-m", "glm4v.cli", "precision"]
    judge = ["--judge", str(small_judge.weights), "--model-name", small_judge.model]
    expected = run("score", captions, *judge, "--images", images)
    assert run(*words[3:]).stdout == expected.stdout
    assert "the mean of 3 images" in expected.stdout


def test_one_file_of_scores_may_hold_both(tmp_path: Path, judged_by: list[str]) -> None:
    a, b = written(tmp_path / "a.json", ENGLISH), written(tmp_path / "b.json", CHINESE)
    both = tmp_path / "both.json"
    both.write_text(run("score", a, b, *judged_by, "--json").stdout, encoding="utf-8")
    assert json.loads(run("compare", both, "--json").stdout)["b"] == str(b)


def test_a_sample_depends_on_the_seed_and_the_names_alone() -> None:
    names = [f"COCO_test2014_{number:012}.jpg" for number in range(500)]
    picked = pick(names, 100, 7)
    assert picked == pick(list(reversed(names)), 100, 7)
    assert picked != pick(names, 100, 8)
    assert len(set(picked)) == 100
    # Recorded, so that another release picks the same images.
    assert picked[:3] == [f"COCO_test2014_{number:012}.jpg" for number in (3, 4, 10)]
    grown = pick([*names, *(f"new{number}.jpg" for number in range(5))], 100, 7)
    assert len(set(grown) & set(picked)) >= 95


def test_each_image_is_picked_as_often() -> None:
    counts = dict.fromkeys((f"{number}.jpg" for number in range(20)), 0)
    for seed in range(400):
        for name in pick(list(counts), 5, seed):
            counts[name] += 1
    assert all(60 <= count <= 140 for count in counts.values())  # 100, and its deviation 9


def test_a_sample_is_listed_or_copied(tmp_path: Path, images: Path) -> None:
    listed = run("sample-coco", images, "--count", "2", "--seed", "1")
    assert len(listed.stdout.split()) == 2
    assert f"2 of 3 images of {images}, seed 1: listed" in listed.stderr
    out = tmp_path / "sample"
    for _ in range(2):  # also where it is already
        run("sample-coco", images, "--count", "2", "--seed", "1", "--out", out)
    assert sorted(os.listdir(out)) == listed.stdout.split()
    for name in listed.stdout.split():
        assert (out / name).read_bytes() == (images / name).read_bytes()


def test_a_sample_is_not_mixed_with_other_images(tmp_path: Path, images: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(InvalidRequest, match=r"has other files \(other\.png\)"):
        run("sample-coco", images, "--count", "2", "--out", tmp_path)
    with pytest.raises(InvalidRequest, match="has 3 images, and --count is 100"):
        run("sample-coco", images)
