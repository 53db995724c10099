"""Scores: by hand from the judge's vectors, each image encoded once, problems by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from glm4v.errors import InvalidRequest
from precision.judge.clip import Judge
from precision.judge.window import parts
from precision.scores import Scores, paired, read_scores
from precision.scoring import find_images, score_files
from tests.unit.precision.conftest import SmallJudge
from tests.unit.precision.test_window import LONG

CAPTIONS = {"0.png": "a red image", "1.png": LONG, "2.png": ""}


@pytest.fixture(scope="module")
def judge(small_judge: SmallJudge) -> Judge:
    return Judge(str(small_judge.weights), small_judge.model)


class Counting:
    """A judge that counts the images it encodes."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.images = judge, 0
        self.name, self.warning, self.tokenize = judge.name, judge.warning, judge.tokenize
        self.encode_texts = judge.encode_texts

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        self.images += len(images)
        return self.judge.encode_images(images)


def vectors(judge: Judge, path: Path, text: str) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(path) as image:
        return (
            judge.encode_images([image.convert("RGB")])[0].numpy().astype(np.float64),
            judge.encode_texts([text])[0].numpy().astype(np.float64),
        )


def test_a_score_is_the_cosine(judge: Judge, images: Path) -> None:
    files = {"a.json": CAPTIONS}
    scored = score_files(judge, files, find_images(files, images), in_parts=False).files[0]
    for name, caption in CAPTIONS.items():
        image, text = vectors(judge, images / name, caption)
        cosine = (image * text).sum() / np.sqrt((image**2).sum() * (text**2).sum())
        assert scored.captions[name].score == pytest.approx(cosine, abs=1e-6)
    by_hand = sum(each.score for each in scored.captions.values()) / 3
    assert scored.mean == pytest.approx(by_hand)
    assert scored.cut_share == pytest.approx(1 / 3)
    assert scored.captions["1.png"].is_cut
    assert not scored.captions["0.png"].is_cut


def test_in_parts_a_score_is_the_mean_over_all_of_the_caption(judge: Judge, images: Path) -> None:
    files = {"a.json": CAPTIONS}
    scores = score_files(judge, files, find_images(files, images), in_parts=True)
    found = scores.files[0].captions["1.png"]
    pieces = parts(judge.tokenize, LONG)
    cosines = [float(np.dot(*vectors(judge, images / "1.png", piece))) for piece in pieces]
    assert found.parts == len(pieces) > 1
    assert found.score == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert scores.files[0].cut_share == 0


def test_captions_that_differ_after_what_is_read_have_one_score(judge: Judge, images: Path) -> None:
    other = {**CAPTIONS, "1.png": LONG[:45] + "后面写的是别的东西，与图片没有关系。"}
    files = {"a.json": CAPTIONS, "b.json": other}
    found = find_images(files, images)
    one, two = (
        file.captions["1.png"] for file in score_files(judge, files, found, in_parts=False).files
    )
    assert one.score == two.score
    assert one.judged == two.judged < 45
    one, two = (
        file.captions["1.png"] for file in score_files(judge, files, found, in_parts=True).files
    )
    assert abs(one.score - two.score) > 1e-4


def test_an_image_is_encoded_once_for_all_files(judge: Judge, images: Path) -> None:
    counting = Counting(judge)
    files = {"a.json": CAPTIONS, "b.json": {"0.png": "x"}, "c.json": {"1.png": "y"}}
    score_files(counting, files, find_images(files, images), in_parts=False)  # type: ignore[arg-type]
    assert counting.images == 3


def test_the_judge_sees_what_the_model_saw(judge: Judge, tmp_path: Path) -> None:
    """A palette is not resized by nearest neighbours, and transparency is white."""
    noise = torch.randint(0, 256, (64, 64, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    palette = Image.fromarray(noise.numpy()).quantize(64)
    palette.save(tmp_path / "palette.png")
    palette.convert("RGB").save(tmp_path / "rgb.png")
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    Image.new("I;16", (32, 32), 20000).save(tmp_path / "wide.png")
    Image.new("L", (32, 32), 78).save(tmp_path / "grey.png")  # 20000 / 257
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    files = {"a.json": {path.name: "a caption" for path in tmp_path.iterdir()}}
    scores = score_files(judge, files, find_images(files, tmp_path), in_parts=False)
    score = {name: each.score for name, each in scores.files[0].captions.items()}
    assert score["palette.png"] == pytest.approx(score["rgb.png"], abs=1e-6)
    assert score["clear.png"] == pytest.approx(score["white.png"], abs=1e-6)
    assert score["wide.png"] == pytest.approx(score["grey.png"], abs=1e-6)
    assert len({round(each, 4) for each in score.values()}) == 4


@pytest.mark.parametrize(
    ("captions", "says"),
    [
        ({}, "a.json has no captions"),
        ({"none.png": "x"}, "a.json names none.png"),
        ({"../0.png": "x"}, "images are named within"),
        ({"/0.png": "x"}, "images are named within"),
        ({"text.png": "x"}, "text.png"),
    ],
)
def test_an_image_that_cannot_be_scored_is_named(
    captions: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InvalidRequest, match=says):
        find_images({"a.json": captions}, tmp_path)


def test_scores_are_read_as_they_were_written(judge: Judge, images: Path, tmp_path: Path) -> None:
    files = {"a.json": CAPTIONS}
    scores = score_files(judge, files, find_images(files, images), in_parts=False)
    path = tmp_path / "scores.json"
    path.write_text(scores.model_dump_json(), encoding="utf-8")
    assert read_scores(path) == scores
    assert '"mean":' in path.read_text()


@pytest.mark.parametrize("score", ["NaN", "Infinity", "2.0", "null", '"0.3"x'])
def test_a_score_that_is_none_is_refused_with_its_place(score: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    judge = (
        '{"model": "m", "weights_sha256": "0", "activation": "GELU", "context_tokens": 77, '
        '"in_parts": false}'
    )
    one = f'{{"caption": "x", "score": {score}, "judged": 1}}'
    path.write_text(
        f'{{"judge": {judge}, "files": [{{"file": "a", "captions": {{"a.jpg": {one}}}}}]}}'
    )
    with pytest.raises(InvalidRequest, match="holds no scores"):
        read_scores(path)


def test_an_image_that_one_file_lacks_is_named() -> None:
    judge = {"model": "m", "weights_sha256": "0", "activation": "GELU", "context_tokens": 77}
    one = {"caption": "x", "score": 0.25, "judged": 1}
    files = [
        {"file": "a.json", "captions": {"1": one, "2": one, "3": one}},
        {"file": "b.json", "captions": {"1": one, "2": one}},
        {"file": "c.json", "captions": {"4": one}},
    ]
    scores = Scores.model_validate({"judge": {**judge, "in_parts": False}, "files": files})
    a, b, c = scores.files
    with pytest.raises(InvalidRequest, match=r"b\.json has no caption of 1 images of a\.json, 3"):
        paired(a, b, common=False)
    with pytest.raises(InvalidRequest, match=r"b\.json has no caption of 1 images of a\.json, 3"):
        paired(b, a, common=False)
    assert [pair.name for pair in paired(a, b, common=True)] == ["1", "2"]
    with pytest.raises(InvalidRequest, match="no image in common"):
        paired(a, c, common=True)
