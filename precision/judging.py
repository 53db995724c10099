"""What the commands that need a judge share: their options, and scoring with a progress bar."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import ConfigurationError
from precision.captions import read_captions

if TYPE_CHECKING:
    from precision.scores import Scores

DEFAULT_MODEL = "ViT-H-14"  # of MindIE's guide

JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="WEIGHTS|local-dir:FOLDER",
        help="The judge's file of weights, or a folder with configuration, weights and tokenizer.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option("--model-name", metavar="NAME", help="open_clip's architecture of the weights."),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="The folder of the images that captions name."),
]
Parts = Annotated[
    bool,
    typer.Option(
        "--parts",
        help="Judge a caption in parts that the judge reads whole, cut at the ends of sentences.",
    ),
]


def judge_captions(
    paths: "list[Path]", judge: str | None, model_name: str, folder: Path | None, *, in_parts: bool
) -> "Scores":
    """The scores of caption files. Nothing is loaded before all files and images are looked at."""
    if judge is None or folder is None:
        raise ConfigurationError(
            "captions are judged with --judge WEIGHTS --images DIR; weights such as those of "
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K, open_clip_pytorch_model.bin"
        )
    captions: Mapping[str, dict[str, str]] = {str(path): read_captions(path) for path in paths}
    if len(captions) < len(paths):
        raise ConfigurationError("a file of captions is given twice")
    from rich.console import Console
    from rich.progress import Progress

    from precision.judge.clip import Judge
    from precision.scoring import find_images, score_files

    images = find_images(captions, folder)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("loading the judge", total=None)
        loaded = Judge(judge, model_name)
        progress.update(bar, total=len(images) + sum(map(len, captions.values())))

        def advance(what: str, count: int) -> None:
            progress.update(bar, advance=count, description=what)

        return score_files(loaded, captions, images, in_parts=in_parts, advance=advance)
