"""`glm4v explain`: what happened to a request, from its journal."""

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glm4v.cli import options as opt
from glm4v.cli.deployment import Namespace, RedisUrl, open_deployment

if TYPE_CHECKING:
    from glm4v.broker.timeline import Timeline

_BAR_WIDTH = 40
_WIDTH = 120  # columns of a file or a pipe


def explain(
    request_id: opt.RequestId,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the phases of a request: where it waited, which workers ran it, how it ended.

    Reads the journal in Redis, which is kept for GLM4V_RESULT_TTL_S after the end. For a request
    with several answers REQUEST/1 is the second one.
    """
    from glm4v.broker.timeline import Timeline, read_timeline

    async def run() -> Timeline:
        async with open_deployment(redis_url, namespace) as (connection, keys):
            return await read_timeline(connection, keys, request_id)

    found = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() else _WIDTH
        Console(highlight=False, width=width).print(bars(found))
        typer.echo(_summary(found))


def bars(timeline: "Timeline") -> Table:
    """A row for each phase, with a bar whose place and length are its time."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("phase", "left"), ("seconds", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("tokens", justify="right")
    table.add_column("worker")
    start_ms = timeline.job.accepted_ms
    total_ms = max(timeline.end_ms - start_ms, 1)
    for each in timeline.phases:
        left = round(_BAR_WIDTH * (each.start_ms - start_ms) / total_ms)
        width = max(1, round(_BAR_WIDTH * 1000 * each.seconds / total_ms))
        left = max(0, min(left, _BAR_WIDTH - width))
        bar = Text(" " * left + "█" * width)
        name = f"{each.name} (alone)" if each.isolated else str(each.name)
        tokens = str(each.tokens) if each.tokens else ""
        table.add_row(name, f"{each.seconds:.3f}", bar, tokens, each.worker)
    return table


def _summary(timeline: "Timeline") -> str:
    parts = [f"{timeline.end_reason or 'open'} after {timeline.duration_s:.3f} s"]
    if timeline.end is not None and timeline.end.message:
        parts[0] += f" ({timeline.end.message})"
    parts.append(f"{timeline.input_tokens} tokens in, {timeline.tokens} out")
    if timeline.time_to_first_token_s is not None:
        parts.append(f"first token after {timeline.time_to_first_token_s:.3f} s")
    return "; ".join(parts)
