"""`glm4v bench whole-model`: GLM-4V-9B's geometry once through the whole system."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.whole_model.run import Outcome

_NOT_MODEL = ("redis", "gateway")  # processes that read no weights


def whole_model(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A checkpoint; where there is none, one with random weights is written, of 28 GB.",
        ),
    ],
    weight_dtype: Annotated[str, typer.Option(help="As GLM4V_WEIGHT_DTYPE.")] = "int8",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answer.")] = 16,
) -> None:
    """Time to load and answer one question about an image, and each process's peak of memory.

    For GLM-4V-9B on a CPU: 24 GiB of memory with int8 weights, and some minutes.
    """
    from bench.whole_model.checkpoint import write_whole
    from bench.whole_model.run import WholeRun

    def log(line: str) -> None:
        typer.echo(line, err=True)

    if not (model / "config.json").exists():
        write_whole(model, log)
    environment = {"GLM4V_WEIGHT_DTYPE": weight_dtype, "GLM4V_MAX_NUM_SEQS": "1"}
    _report(asyncio.run(WholeRun(model, environment, log).measure(tokens)))


def _report(outcome: "Outcome") -> None:
    for name, seconds in outcome.load_s.items():
        if name not in _NOT_MODEL:
            typer.echo(f"{name} ready after {seconds:.1f} s")
    times = outcome.timings
    steps = max(1, len(outcome.token_ids) - 1)
    typer.echo(f"image encoded after {times.vision_s:.1f} s")
    typer.echo(f"prompt computed in {times.time_to_first_token_s - times.vision_s:.1f} s")
    typer.echo(f"each further token in {times.decode_s / steps:.2f} s")
    for name, peak in outcome.peaks.items():
        typer.echo(
            f"{name} held {peak.anonymous / 2**20:.0f} MiB of its own, "
            f"{peak.resident / 2**20:.0f} MiB with pages of files"
        )
    typer.echo(f"tokens: {' '.join(map(str, outcome.token_ids))}")
