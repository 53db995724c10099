"""`glm4v top`: workers, queues and rates, live."""

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from glm4v.cli.deployment import Namespace, RedisUrl, open_deployment
from glm4v.errors import Unavailable

if TYPE_CHECKING:
    from glm4v.broker.deployment_state import DeploymentState

_WIDTH = 160  # columns of a file or a pipe
_WORKER_COLUMNS = (
    "worker",
    "host",
    "device",
    "state",
    "running",
    "waiting",
    "rate",
    "KV cache",
    "arithmetic and weights",
)
_UNITS = {"lm": "tokens/s", "vision": "images/s"}


def top(
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    interval: Annotated[
        float, typer.Option(metavar="S", min=0.5, max=60, help="Seconds between two readings.")
    ] = 1.0,
    once: Annotated[bool, typer.Option(help="Print one reading, then exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each reading.")
    ] = False,
) -> None:
    """Watch a deployment: queues, workers, and what they do per second. Ctrl-C ends it.

    Without a terminal the tables are printed once for each reading.
    """
    asyncio.run(_watch(redis_url, namespace, interval, once=once, as_json=as_json))


async def _watch(
    redis_url: str | None, namespace: str | None, interval_s: float, *, once: bool, as_json: bool
) -> None:
    from glm4v.broker.deployment_state import deployment_state

    rates = Rates()
    with _Output(is_live=not once and not as_json) as output:
        async with open_deployment(redis_url, namespace) as (connection, keys):
            rates.update(await deployment_state(connection, keys), time.monotonic())
            while True:
                await asyncio.sleep(interval_s)
                try:
                    state = await deployment_state(connection, keys)
                except Unavailable as error:
                    if once:
                        raise
                    if as_json:  # standard output is for a program
                        typer.echo(error, err=True)
                    else:
                        output.show(str(error))
                    continue
                rates.update(state, time.monotonic())
                found = state_object(state, rates)
                output.show(json.dumps(found) if as_json else tables(state, rates))
                if once:
                    return


class _Output:
    """The whole terminal, if standard output is one and `is_live`; else one text after another."""

    def __init__(self, *, is_live: bool) -> None:
        width = None if sys.stdout.isatty() else _WIDTH
        self._console = Console(highlight=False, soft_wrap=True, width=width)
        self._stack = ExitStack()
        self._live: Live | None = None
        if is_live and sys.stdout.isatty():
            self._live = Live(console=self._console, auto_refresh=False, screen=True)

    def __enter__(self) -> "_Output":
        if self._live is not None:
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, text: str | Group) -> None:
        """Show it, in place of what was shown before."""
        if self._live is not None:
            self._live.update(text, refresh=True)
        else:
            self._console.print(text)


class Rates:
    """What each worker did per second between the last two readings."""

    def __init__(self) -> None:
        self._done: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def update(self, state: "DeploymentState", now_s: float) -> None:
        """Take a reading."""
        before, self._done = self._done, {}
        self._rates = {}
        for each in state.workers:
            self._done[each.consumer] = (now_s, each.report.done)
            if each.consumer in before:
                then_s, done = before[each.consumer]
                self._rates[each.consumer] = (each.report.done - done) / (now_s - then_s)

    def of(self, consumer: str) -> float:
        """Tokens or images per second; 0 after the first reading."""
        return self._rates.get(consumer, 0.0)


def state_object(state: "DeploymentState", rates: Rates) -> dict[str, object]:
    """A reading as JSON, with the rate of each worker."""
    workers = [each.as_dict() | {"rate": rates.of(each.consumer)} for each in state.workers]
    return state.as_dict() | {"workers": workers}


def tables(state: "DeploymentState", rates: Rates) -> Group:
    """A reading for a terminal."""
    queues = _table("model", "queue", "waiting", "oldest", "in stream")
    for model, lengths in state.models.items():
        for name, length in (("language", lengths.language), ("vision", lengths.vision)):
            oldest = f"{length.oldest_s:.1f} s" if length.waiting else ""
            queues.add_row(model, name, str(length.waiting), oldest, str(length.jobs))
    workers = _table(*_WORKER_COLUMNS)
    for each in state.workers:
        report = each.report
        blocks = report.kv_blocks_total
        share = f"{report.kv_blocks_used / blocks:.0%}" if blocks else ""
        group = report.queue.partition(":")[0]
        rate = f"{rates.of(each.consumer):.1f} {_UNITS.get(group, '/s')}"
        row = (each.consumer, report.host, report.device, each.phase)
        counts = (str(report.running), str(report.waiting), rate, share)
        workers.add_row(*row, *counts, report.description)
    return Group(f"{state.open_requests} open requests", "", queues, "", workers)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        is_number = name in ("waiting", "oldest", "in stream", "running", "rate", "KV cache")
        table.add_column(name, justify="right" if is_number else "left")
    return table
