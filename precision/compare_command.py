"""`glm4v precision compare`: whether a second system describes the same images as well."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import ConfigurationError, InvalidRequest
from glm4v.process.extras import require
from precision.captions import replace_file
from precision.judging import (
    DEFAULT_MODEL,
    Images,
    JudgeOption,
    ModelName,
    Parts,
    judge_captions,
)

if TYPE_CHECKING:
    from precision.scores import JudgeRecord, ScoredFile

TOLERANCE = 0.02  # two points, which a hundred images can tell from none


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B",
            help="Captions of two systems, or what `score --json` wrote of them.",
        ),
    ],
    judge: JudgeOption = None,
    model_name: ModelName = DEFAULT_MODEL,
    images: Images = None,
    parts: Parts = False,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="A difference of the means that does not matter.")
    ] = TOLERANCE,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the images of both; others are left out.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an HTML page: images and both captions."),
    ] = None,
) -> None:
    """Compare the captions of two systems by the difference of their scores, image by image.

    Says the mean difference with its 95 % interval (paired percentile bootstrap), on how many
    images each is better, and whether the two are equal within --tolerance.
    """
    require("scipy", "precision")
    if page is not None and images is None:
        raise ConfigurationError("--page shows the images: give their folder with --images")
    record, first, second = _scored(files, judge, model_name, images, in_parts=parts)
    from precision.comparison import compare as compare_scores
    from precision.comparison_page import page as page_of
    from precision.comparison_report import print_comparison, report
    from precision.scores import paired
    from precision.scoring import find_images

    pairs = paired(first, second, common=common)
    found = compare_scores(
        [pair.first.score for pair in pairs],
        [pair.second.score for pair in pairs],
        tolerance,
        seed,
    )
    names = (first.file, second.file)
    if page is not None and images is not None:
        captions = {first.file: {pair.name: pair.first.caption for pair in pairs}}
        html = page_of(found, pairs, record, names, find_images(captions, images))
        replace_file(page, html.encode())
    if json:
        typer.echo(json_format.dumps(report(found, pairs, record, names), ensure_ascii=False))
    else:
        print_comparison(found, pairs, record, names)


def _scored(
    files: list[Path], judge: str | None, model_name: str, images: Path | None, *, in_parts: bool
) -> "tuple[JudgeRecord, ScoredFile, ScoredFile]":
    """Both files with their scores, and their one judge."""
    from precision.scores import is_scores, read_scores

    known = [is_scores(path) for path in files]
    if any(known) and not all(known):
        raise InvalidRequest("one file has captions and another one scores; give two of a kind")
    if all(known):
        if judge is not None or in_parts:
            raise ConfigurationError("the files have scores: --judge and --parts do not apply")
        read = [read_scores(path) for path in files]
    else:
        _check_two([str(path) for path in files])
        read = [judge_captions(files, judge, model_name, images, in_parts=in_parts)]
    scored = [file for scores in read for file in scores.files]
    _check_two([file.file for file in scored])
    if len({scores.judge for scores in read}) > 1:
        raise InvalidRequest(
            "the scores are of different judges, or in parts and not: "
            f"{read[0].judge}; {read[1].judge}"
        )
    return read[0].judge, scored[0], scored[1]


def _check_two(names: list[str]) -> None:
    if len(names) != 2:
        raise InvalidRequest(f"two files of captions are compared, {len(names)} are given")
