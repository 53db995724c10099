"""`glm4v bench offline`: MindIE's performance test of GLM-4V, with its CSV files or a clean one."""

import asyncio
import json as json_format
import os
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import glm4v
from bench.revision import revision
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.errors import InvalidRequest
from glm4v.process.extras import require
from offline import options as opt
from offline.image_folder import GUIDE_QUESTION, images_in, read_image

if TYPE_CHECKING:
    from bench.offline import Figures
    from bench.performance_csv import Setup
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import Device
    from offline.batch import Question
    from offline.rank_group import Hardware

_BATCHES = range(1, 11)
_BENCHMARK_CSV = "benchmark_result/benchmark.csv"


class Dialect(StrEnum):
    """Of the CSV file."""

    MINDIE = "mindie"
    TIDY = "tidy"


def offline(
    images: Annotated[Path, typer.Argument(help="An image, or a folder with one image in it.")],
    model: opt.Model = DEMO_MODEL,
    question: opt.Question = GUIDE_QUESTION,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Questions at once; may be repeated. Default: 1 to 10."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 256,
    csv: Annotated[
        Path, typer.Option(metavar="FILE", help="A line for each batch size is added to it.")
    ] = Path("glm4v_performance.csv"),
    csv_dialect: Annotated[
        Dialect, typer.Option(help="mindie: MindIE's columns, byte for byte; tidy: clean ones.")
    ] = Dialect.MINDIE,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a plot as PNG; needs matplotlib.")
    ] = None,
    tensor_parallel: opt.TensorParallel = 1,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    weight_dtype: opt.WeightDtype = "auto",
    threads: opt.Threads = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Time to answer one question about one image, by batch size, in one process without Redis.

    Each answer has exactly --max-tokens tokens. Each question of a batch pays for an image and a
    prefill of its own. With ATB_LLM_BENCHMARK_ENABLE=1 the last batch size is also written to
    ATB_LLM_BENCHMARK_FILEPATH (benchmark_result/benchmark.csv).
    """
    if plot is not None:
        require("matplotlib", "bench")
    image = read_image(_only_image(images))
    benchmark = benchmark_path(os.environ)
    from bench.offline_report import draw, print_table
    from glm4v.checkpoint.checkpoint import Checkpoint
    from offline.batch import Question
    from offline.rank_group import Hardware

    checkpoint = Checkpoint.open(model)
    hardware = Hardware(device, dtype, weight_dtype, threads, tensor_parallel)
    asked = Question(question, image)
    figures: list[Figures] = []

    def keep(at: "Figures", device: "Device") -> None:
        figures.append(at)
        _write(csv, csv_dialect, benchmark, at, _setup(checkpoint, device, tensor_parallel))

    asyncio.run(_measure(checkpoint, hardware, asked, batch or _BATCHES, max_tokens, keep))
    title = f"{model.name}, {max_tokens} tokens to each question"
    if json:
        typer.echo(json_format.dumps([_object(at) for at in figures]))
    else:
        print_table(figures, title)
    if plot is not None:
        draw(figures, title, plot)


def benchmark_path(environment: Mapping[str, str]) -> Path | None:
    """Where MindIE's variables want `benchmark.csv`; None if they do not want it."""
    path = environment.get("ATB_LLM_BENCHMARK_FILEPATH")
    if environment.get("ATB_LLM_BENCHMARK_ENABLE") == "1":
        return Path(path or _BENCHMARK_CSV)
    if path:
        typer.echo(
            f"{path} is not written: ATB_LLM_BENCHMARK_FILEPATH counts only with "
            "ATB_LLM_BENCHMARK_ENABLE=1",
            err=True,
        )
    return None


def _only_image(path: Path) -> Path:
    found = images_in(path)
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:3])
        raise InvalidRequest(
            f"{path} has {len(found)} images ({names}{', …' if len(found) > 3 else ''}); the "
            "performance test takes one: name it, or a folder that has no other"
        )
    return found[0]


async def _measure(
    checkpoint: "Checkpoint",
    hardware: "Hardware",
    question: "Question",
    batches: Sequence[int],
    max_tokens: int,
    keep: "Callable[[Figures, Device], None]",
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from bench.offline import OfflineBench

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=sum(batches) * max_tokens)

        def count(tokens: int) -> None:
            progress.update(task, advance=tokens, description="tokens")

        bench = OfflineBench(checkpoint, hardware, question, batches, max_tokens, count)
        await bench.measure(lambda at: keep(at, bench.device))


def _write(
    csv: Path, dialect: Dialect, benchmark: Path | None, at: "Figures", setup: "Setup"
) -> None:
    from bench import performance_csv as files

    if dialect == Dialect.TIDY:
        files.append(csv, files.tidy_header(), files.tidy_row(at, setup))
    else:
        files.append(csv, files.MINDIE_HEADER, files.mindie_row(at))
    if benchmark is not None:
        files.write_benchmark(benchmark, at)


def _setup(checkpoint: "Checkpoint", device: "Device", tensor_parallel: int) -> "Setup":
    from bench.performance_csv import Setup

    return Setup(
        model=checkpoint.directory.name,
        fingerprint=checkpoint.fingerprint,
        device=device.name,
        dtype=device.description,
        tensor_parallel=tensor_parallel,
        version=glm4v.__version__,
        revision=revision(),
    )


def _object(at: "Figures") -> dict[str, object]:
    from bench.performance_csv import TIDY_FIGURES

    return {name: getattr(at, name) for name in TIDY_FIGURES}
