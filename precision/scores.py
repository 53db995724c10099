"""Scores of captions, and the file of them that `glm4v precision score --json` writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from glm4v.client.conversation_file import read_file
from glm4v.errors import InvalidRequest

Cosine = Annotated[float, Field(ge=-1.001, le=1.001, allow_inf_nan=False)]


class CaptionScore(BaseModel):
    """A caption, its score, and how much of it the judge read."""

    model_config = ConfigDict(frozen=True)

    caption: str
    score: Cosine  # cosine of image and caption, or the mean of those of its parts
    judged: int  # characters from the start
    parts: int = 1

    @property
    def is_cut(self) -> bool:
        """Whether the judge stopped before the end: the rest changes nothing."""
        return self.judged < len(self.caption)


class JudgeRecord(BaseModel):
    """Which judge gave the scores; those of two are never compared."""

    model_config = ConfigDict(frozen=True)

    model: str
    weights_sha256: str
    activation: str
    context_tokens: int
    in_parts: bool  # captions were cut into parts that are read whole
    warning: str = ""

    def __str__(self) -> str:
        parts = ", captions in parts" if self.in_parts else ""
        return (
            f"{self.model}, {self.activation}, float32, {self.context_tokens} tokens, weights "
            f"{self.weights_sha256[:12]}{parts}"
        )


class ScoredFile(BaseModel):
    """The scores of one caption file, by image name."""

    model_config = ConfigDict(frozen=True)

    file: str
    captions: dict[str, CaptionScore] = Field(min_length=1)

    @computed_field  # type: ignore[prop-decorator] # written for readers
    @property
    def mean(self) -> float:
        """The guide's figure: the plain mean of the cosines."""
        return sum(each.score for each in self.captions.values()) / len(self.captions)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cut_share(self) -> float:
        """Captions that were not read whole, of all."""
        return sum(each.is_cut for each in self.captions.values()) / len(self.captions)


class Scores(BaseModel):
    """Scores of some caption files by one judge."""

    model_config = ConfigDict(frozen=True)

    judge: JudgeRecord
    files: list[ScoredFile] = Field(min_length=1)


class Pair(NamedTuple):
    """An image with the captions of two systems."""

    name: str
    first: CaptionScore
    second: CaptionScore


def is_scores(path: Path) -> bool:
    """Whether a JSON file holds scores; captions are texts, a list is none."""
    try:
        document = json.loads(read_file(path, "file").decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("files"), list)


def read_scores(path: Path) -> Scores:
    """What `--json` wrote. Raises InvalidRequest, with the place, for anything else."""
    try:
        return Scores.model_validate_json(read_file(path, "scores"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise InvalidRequest(f"{path} holds no scores: {place}: {first['msg']}") from None


def paired(first: ScoredFile, second: ScoredFile, *, common: bool) -> Sequence[Pair]:
    """The images of both, by name, each with its two captions.

    Raises InvalidRequest if one lacks an image of the other, unless `common` asks for the images
    that both have, and if they have none.
    """
    both = sorted(first.captions.keys() & second.captions.keys())
    for one, other in ((first, second), (second, first)):
        missing = sorted(one.captions.keys() - other.captions.keys())
        if missing and not common:
            raise InvalidRequest(
                f"{other.file} has no caption of {len(missing)} images of {one.file}, {missing[0]} "
                "first; add them, or compare the images of both with --common"
            )
    if not both:
        raise InvalidRequest(f"{first.file} and {second.file} have no image in common")
    return [Pair(name, first.captions[name], second.captions[name]) for name in both]
