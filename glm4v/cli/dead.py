"""`glm4v dead`: the dead letters, requests that repeatedly crashed their workers."""

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf.json_format import MessageToDict

from glm4v.cli import options as opt
from glm4v.cli.deployment import Namespace, RedisUrl, open_deployment

if TYPE_CHECKING:
    from glm4v.broker.dead_letters import DeadLetter

app = typer.Typer(
    no_args_is_help=True, help="Dead letters: requests that repeatedly crashed their workers."
)
_OPEN_LIMIT = 1024  # the default of a gateway


@app.command("list")
def list_all(redis_url: RedisUrl = None, namespace: Namespace = None) -> None:
    """List them, newest first: time, request id, reason."""
    from glm4v.broker.dead_letters import DeadLetters

    async def run() -> None:
        async with open_deployment(redis_url, namespace) as deployment:
            letters = DeadLetters(*deployment)
            async for letter in letters.all():
                name = letter.job.request_id if letter.job is not None else f"({letter.source})"
                typer.echo(f"{_time(letter)}  {name}  {letter.reason}")

    asyncio.run(run())


@app.command()
def show(
    request_id: opt.RequestId, redis_url: RedisUrl = None, namespace: Namespace = None
) -> None:
    """Print a request as JSON: the prompt as token ids, the image as its digest."""
    from glm4v.broker.dead_letters import DeadLetters

    async def run() -> None:
        async with open_deployment(redis_url, namespace) as deployment:
            letter = await DeadLetters(*deployment).find(request_id)
        assert letter.job is not None  # letters are found by the id of their job
        job = MessageToDict(letter.job, preserving_proto_field_name=True)
        content = {"given_up": _time(letter), "reason": letter.reason, "job": job}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))

    asyncio.run(run())


@app.command()
def retry(
    request_id: opt.RequestId,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    orphan_timeout: Annotated[
        float,
        typer.Option(metavar="S", min=0, help="Seconds it keeps running with no client attached."),
    ] = 600.0,
) -> None:
    """Run it again under a new id and with its original timeout, and remove it from the list."""
    from glm4v.broker import Broker
    from glm4v.broker.dead_letters import DeadLetters

    async def run() -> str:
        async with open_deployment(redis_url, namespace) as (connection, keys):
            broker = Broker(
                connection,
                keys,
                max_open_requests=_OPEN_LIMIT,
                result_ttl_s=orphan_timeout,
            )
            job = await DeadLetters(connection, keys).retry(request_id, broker, orphan_timeout)
        return job.request_id

    new_id = asyncio.run(run())
    typer.echo(f"{request_id} is running again as {new_id}; read it with: glm4v attach {new_id}")


def _time(letter: "DeadLetter") -> str:
    return datetime.fromtimestamp(letter.at_s, UTC).isoformat(timespec="seconds")
