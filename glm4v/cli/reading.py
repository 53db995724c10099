"""An answer in a terminal: the stage while waiting, then the text as it arrives."""

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from glm4v.cli.answer import summary
from glm4v.client.choice import Choice
from glm4v.client.generation import Generation
from glm4v.v1 import inference_pb2 as pb

STAGE_NAMES = {
    pb.STAGE_QUEUED: "queued",
    pb.STAGE_ENCODING: "encoding the image",
    pb.STAGE_RUNNING: "running",
}
INTERRUPTED = 130  # exit code after Ctrl-C


def stream(generation: Generation) -> None:
    """Write the text to standard output as it becomes final, and a summary to standard error.

    Several choices are written in order, each once it is complete.
    """
    written = 0  # complete choices that were written
    with _Waiting() as waiting:
        for event in generation:
            waiting.show(event)
            piece = event.delta.text or event.finished.text
            if len(generation.choices) > 1:
                texts = [choice.text for choice in _complete(generation.choices)]
                piece = "".join(f"[{i}] {text}\n" for i, text in enumerate(texts) if i >= written)
                written = len(texts)
            if piece:
                waiting.stop()  # standard output may be the same terminal
                sys.stdout.write(piece)
                sys.stdout.flush()
    if len(generation.choices) == 1:
        typer.echo()
    _report_equal([choice.text for choice in generation.choices])
    for choice in generation.choices:
        assert choice.finished is not None  # else the loop would have raised
        typer.echo(f"{summary(choice.finished)}, request {generation.request_id}", err=True)


def _complete(choices: Sequence[Choice]) -> Iterator[Choice]:
    """The complete choices before the first incomplete one."""
    return takewhile(lambda choice: choice.finished is not None, choices)


def _report_equal(texts: list[str]) -> None:
    """Tell the user if some of several answers are equal."""
    different = len(set(texts))
    if different < len(texts):
        what = "all" if different == 1 else f"only {different} of"
        verb = "are equal" if different == 1 else "are different"
        advice = "a higher --temperature and --top-p give more variety"
        typer.echo(f"{what} {len(texts)} answers {verb}; {advice}", err=True)


def collect(generation: Generation) -> None:
    """Read to the end without writing the text."""
    with _Waiting() as waiting:
        for event in generation:
            waiting.show(event)


class _Waiting:
    """Shows stage and seconds on standard error, if it is a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("sending")

    def show(self, event: pb.GenerationEvent) -> None:
        if event.WhichOneof("event") == "progress":
            name = STAGE_NAMES.get(event.progress.stage, "waiting")
            self._progress.update(self._task, description=name)

    def stop(self) -> None:
        self._progress.stop()

    def __enter__(self) -> "_Waiting":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
