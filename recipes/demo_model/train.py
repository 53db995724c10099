"""Trains the demo model: `python -m recipes.demo_model.train`; goes on where it was cut.

First the tower alone learns what covers each cell of a picture (`labels`), which teaches it to see
in a fraction of the time; then the adapter alone learns to keep that in the picture's rows; then
all of it learns to answer, with the cells and rows as a smaller part of the loss. The rate is
constant after a warm-up and falls over the last `decay` steps, so that a longer run passes through
the same weights up to there.

On CPUs each core is a process of one thread: they meet once a step, where threads would meet at
every product. Pictures are trained at 224 pixels, an exact fifth of 1120: `export` widens the patch
weights.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed
from torch.multiprocessing import spawn  # type: ignore[attr-defined]

from glm4v.checkpoint.spec import read_spec
from glm4v.host.cpus import usable_cpus
from recipes.demo_model.batches import Batch, Batches, loader
from recipes.demo_model.export import read_weights
from recipes.demo_model.learner import Learner, Stage, shrunk
from recipes.demo_model.optimizers import make_optimizers, set_rate
from recipes.demo_model.progress import RUN, load_progress, save_progress
from recipes.demo_model.scores import Scores

_WARM_UP_STEPS = 100
_SAVE_EVERY = 200
_SCORE_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    model_dir: Path  # config.json and tokenizer.model
    out: Path
    steps: int
    tower_steps: int  # the first of these, for the tower alone
    adapter_steps: int  # the next, for the adapter alone
    decay: int  # last steps, with a falling rate
    batch: int  # pictures in a step, of all processes
    rate: float
    seed: int
    device: str
    processes: int
    start: Path | None = None  # a checkpoint that goes on
    language_steps: int = 0  # its first steps, for all but the tower


def rate_at(step: int, plan: Plan) -> float:
    """The learning rate: up, constant, down to nothing."""
    rising = min(1.0, (step + 1) / _WARM_UP_STEPS)
    falling = min(1.0, (plan.steps - step) / max(1, plan.decay))
    return plan.rate * rising * falling


def stage_at(step: int, plan: Plan) -> Stage:
    """What is trained in a step."""
    if plan.start:
        return "language" if step < plan.language_steps else "all"
    if step < plan.tower_steps:
        return "tower"
    return "adapter" if step < plan.tower_steps + plan.adapter_steps else "all"


def train(rank: int, plan: Plan, store: Path) -> None:
    """One process of a run; the processes find each other through the file `store`."""
    torch.set_num_threads(1 if plan.processes > 1 else usable_cpus())
    if plan.processes > 1:
        distributed.init_process_group("gloo", store.as_uri(), rank=rank, world_size=plan.processes)
    torch.manual_seed(plan.seed)
    learner = Learner(shrunk(read_spec(plan.model_dir))).to(plan.device)
    if plan.start:
        learner.network.load_state_dict(read_weights(plan.start))
    optimizers = make_optimizers(learner, plan.rate)
    first = load_progress(plan.out, learner, optimizers)
    batches = Batches(
        plan.model_dir,
        seed=plan.seed,
        batch=plan.batch // plan.processes,
        share=rank,
        shares=plan.processes,
        first=first,
    )
    scores = Scores()
    with _Bar(plan, first, is_shown=rank == 0) as bar:
        for step, batch in zip(range(first, plan.steps), loader(batches), strict=False):
            _learn(learner, optimizers, batch, scores, step, plan)
            bar.update(step + 1, scores)
            if rank == 0 and ((step + 1) % _SAVE_EVERY == 0 or step + 1 == plan.steps):
                save_progress(plan.out, learner, optimizers, step + 1)


def _learn(
    learner: Learner,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    scores: Scores,
    step: int,
    plan: Plan,
) -> None:
    stage = stage_at(step, plan)
    if stage in ("tower", "adapter") and not len(batch.pixels):
        return
    device = torch.device(plan.device)
    with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
        loss = learner(batch.to(device), scores, stage)
    loss.backward()
    _average_gradients(learner, plan.processes)
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    set_rate(optimizers, rate_at(step, plan))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def _has_bfloat16(device: torch.device) -> bool:
    """Whether it computes with it; a CPU without takes thirty times as long, not less."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def _average_gradients(learner: Learner, processes: int) -> None:
    if processes == 1:
        return
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joined)
    joined /= processes
    parts = torch.split(joined, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


class _Bar:
    """What a person sees of the run: a bar, and a line of scores now and then."""

    def __init__(self, plan: Plan, first: int, *, is_shown: bool) -> None:
        self._console = Console(quiet=not is_shown, width=None if os.isatty(1) else 200)
        columns = (
            TextColumn("step {task.completed} of {task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not is_shown)
        self._task = self._bar.add_task("train", total=plan.steps, completed=first)
        self._batch = plan.batch
        self._since = time.monotonic()

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, scores: Scores) -> None:
        """After each step."""
        self._bar.update(self._task, completed=step)
        if step % _SCORE_EVERY == 0:
            now = time.monotonic()
            speed = _SCORE_EVERY * self._batch / (now - self._since)
            self._since = now
            self._console.print(f"{step}: {scores.take()}, {speed:.1f} pictures/s")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN,
    model: Annotated[Path, typer.Option(help="Folder of config.json and tokenizer.model.")] = Path(
        "glm4v/demo_model"
    ),
    start: Annotated[Path | None, typer.Option(help="Folder of a checkpoint that goes on.")] = None,
    language_steps: Annotated[
        int, typer.Option(help="With --start: first steps, for all but the tower.")
    ] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = 10900,
    tower_steps: Annotated[int, typer.Option(help="First steps, for the tower alone.")] = 4000,
    adapter_steps: Annotated[int, typer.Option(help="The next, for the adapter alone.")] = 300,
    decay: Annotated[int, typer.Option(help="Last steps, with a falling rate.")] = 3000,
    batch: Annotated[int, typer.Option(help="Pictures in a step, of all processes.")] = 32,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-4,
    seed: Annotated[int, typer.Option(help="Of weights and pictures.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = (
        "cuda" if torch.cuda.is_available() else "cpu"
    ),
    processes: Annotated[int, typer.Option(help="0: one for each core, one on a GPU.")] = 0,
) -> None:
    """Train, or go on training, the demo model."""
    count = processes or (1 if device != "cpu" else usable_cpus())
    plan = Plan(
        model_dir=model,
        out=out,
        steps=steps,
        tower_steps=tower_steps,
        adapter_steps=adapter_steps,
        decay=decay,
        batch=batch,
        rate=rate,
        seed=seed,
        device=device,
        processes=count,
        start=start,
        language_steps=language_steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        if count == 1:
            train(0, plan, store)
        else:
            spawn(train, (plan, store), nprocs=count)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    typer.run(main)
