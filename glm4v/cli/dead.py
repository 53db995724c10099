"""`glm4v dead`: the dead letters, requests that repeatedly crashed their workers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf.json_format import MessageToDict

from glm4v.cli import options as opt
from glm4v.errors import ConfigurationError
from glm4v.local.instances import Instance, running_instances

if TYPE_CHECKING:
    from glm4v.broker import Connection, Keys
    from glm4v.broker.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(
    no_args_is_help=True, help="Dead letters: requests that repeatedly crashed their workers."
)
RedisUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="GLM4V_REDIS_URL",
        help="The Redis of the deployment.",
        show_default="that of the running `glm4v up`, else redis://127.0.0.1:6379/0",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        envvar="GLM4V_NAMESPACE",
        parser=opt.namespace,
        help="Prefix of the deployment's keys in Redis.",
        show_default="that of the running `glm4v up`, else glm4v",
    ),
]
_DEFAULT = Instance("", "redis://127.0.0.1:6379/0")
_OPEN_LIMIT = 1024  # the default of a gateway


@app.command("list")
def list_all(redis_url: RedisUrl = None, namespace: Namespace = None) -> None:
    """List them, newest first: time, request id, reason."""

    async def run() -> None:
        async with _open(redis_url, namespace) as (_, _, letters):
            async for letter in letters.all():
                name = letter.job.request_id if letter.job is not None else f"({letter.source})"
                typer.echo(f"{_time(letter)}  {name}  {letter.reason}")

    asyncio.run(run())


@app.command()
def show(
    request_id: opt.RequestId, redis_url: RedisUrl = None, namespace: Namespace = None
) -> None:
    """Print a request as JSON: the prompt as token ids, the image as its digest."""

    async def run() -> None:
        async with _open(redis_url, namespace) as (_, _, letters):
            letter = await letters.find(request_id)
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

    async def run() -> str:
        async with _open(redis_url, namespace) as (connection, keys, letters):
            broker = Broker(
                connection,
                keys,
                max_open_requests=_OPEN_LIMIT,
                result_ttl_s=orphan_timeout,
            )
            job = await letters.retry(request_id, broker, orphan_timeout)
        return job.request_id

    new_id = asyncio.run(run())
    typer.echo(f"{request_id} is running again as {new_id}; read it with: glm4v attach {new_id}")


@asynccontextmanager
async def _open(
    redis_url: str | None, namespace: str | None
) -> "AsyncIterator[tuple[Connection, Keys, DeadLetters]]":
    # Imported here: the other subcommands work without Redis.
    from glm4v.broker import Connection, Keys
    from glm4v.broker.dead_letters import DeadLetters

    found = _DEFAULT if redis_url else _find_instance()
    connection = Connection(redis_url or found.redis_url)
    keys = Keys(namespace or found.namespace)
    try:
        await connection.check()
        yield connection, keys, DeadLetters(connection, keys)
    finally:
        await connection.close()


def _find_instance() -> Instance:
    """The running `glm4v up` of this user, else the defaults."""
    systems = running_instances()
    if len(systems) > 1:
        listed = ", ".join(f"{each.redis_url} (gateway {each.target})" for each in systems)
        raise ConfigurationError(
            f"{len(systems)} systems are running: {listed}; select one with --redis-url"
        )
    return systems[0] if systems else _DEFAULT


def _time(letter: "DeadLetter") -> str:
    return datetime.fromtimestamp(letter.at_s, UTC).isoformat(timespec="seconds")
