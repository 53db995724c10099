"""Rates captions: each image is encoded once, whatever the number of files that describe it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from glm4v.errors import CheckpointError, InvalidRequest
from glm4v.images import ImageLimits
from glm4v.images.pixels import decode
from offline.image_folder import read_image
from precision.judge.clip import Judge
from precision.judge.window import judged_characters, parts
from precision.scores import CaptionScore, JudgeRecord, ScoredFile, Scores

_BATCH = 8  # images, or texts, in one step of the judge

Captions = Mapping[str, str]  # image name -> caption
Advance = Callable[[str, int], None]  # what is encoded, and how many more


def find_images(files: Mapping[str, Captions], folder: Path) -> dict[str, Path]:
    """Where the images are that the captions name.

    Raises InvalidRequest, with the file and the name, for an image that is not in `folder`, is no
    image or is named by a path that leads elsewhere, and for a file without captions.
    """
    found: dict[str, Path] = {}
    for file, captions in files.items():
        if not captions:
            raise InvalidRequest(f"{file} has no captions")
        for name in sorted(captions.keys() - found.keys()):
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts:
                raise InvalidRequest(f"{file} names {name}; images are named within {folder}")
            if not (folder / name).is_file():
                raise InvalidRequest(f"{file} names {name}, and {folder} has no such image")
            read_image(folder / name)
            found[name] = folder / name
    return dict(sorted(found.items()))


def score_files(
    judge: Judge,
    files: Mapping[str, Captions],
    images: Mapping[str, Path],
    *,
    in_parts: bool,
    advance: Advance = lambda what, count: None,
) -> Scores:
    """The scores of all captions of all files, by one judge.

    Raises CheckpointError if the judge gives an image no vector of numbers.
    """
    pixels = dict(zip(images, _encode_images(judge, list(images.values()), advance), strict=True))
    scored = [
        ScoredFile(file=file, captions=_score(judge, captions, pixels, in_parts, advance))
        for file, captions in files.items()
    ]
    record = JudgeRecord(**asdict(judge.name), in_parts=in_parts, warning=judge.warning)
    return Scores(judge=record, files=scored)


def _encode_images(judge: Judge, paths: Sequence[Path], advance: Advance) -> Tensor:
    """Unit vectors [images, width], of the RGB that the model under test saw."""
    limits = ImageLimits()
    vectors = []
    for start in range(0, len(paths), _BATCH):
        some = paths[start : start + _BATCH]
        vectors.append(judge.encode_images([decode(read_image(path), limits) for path in some]))
        advance("images", len(some))
    return torch.cat(vectors)


def _score(
    judge: Judge, captions: Captions, pixels: Mapping[str, Tensor], in_parts: bool, advance: Advance
) -> dict[str, CaptionScore]:
    names = sorted(captions)
    pieces = [
        parts(judge.tokenize, captions[name]) if in_parts else [captions[name]] for name in names
    ]
    texts = [piece for each in pieces for piece in each]
    vectors = iter(_encode_texts(judge, texts))
    scores = {}
    for name, each in zip(names, pieces, strict=True):
        cosine = sum(float(pixels[name] @ next(vectors)) for _ in each) / len(each)
        if not math.isfinite(cosine):
            raise CheckpointError(f"the judge gives {name} no score ({cosine}): damaged weights")
        whole = len(captions[name])
        judged = whole if in_parts else judged_characters(judge.tokenize, captions[name])
        scores[name] = CaptionScore(
            caption=captions[name], score=cosine, judged=judged, parts=len(each)
        )
        advance("captions", 1)
    return scores


def _encode_texts(judge: Judge, texts: Sequence[str]) -> Tensor:
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    return torch.cat([judge.encode_texts(batch) for batch in batches])
