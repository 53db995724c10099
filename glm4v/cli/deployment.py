"""The Redis of a deployment, for subcommands of operators."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.cli import options as opt
from glm4v.errors import ConfigurationError
from glm4v.local.instances import Instance, running_instances

if TYPE_CHECKING:
    from glm4v.broker import Connection, Keys

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


@asynccontextmanager
async def open_deployment(
    redis_url: str | None, namespace: str | None
) -> "AsyncIterator[tuple[Connection, Keys]]":
    """Connect to the Redis of a deployment; raises Unavailable and ConfigurationError."""
    # Imported here: the other subcommands work without Redis.
    from glm4v.broker import Connection, Keys
    from glm4v.broker.redis_url import with_credentials

    found = _DEFAULT if redis_url else _find_instance()
    account = (os.environ.get(f"GLM4V_REDIS_{part}") for part in ("USERNAME", "PASSWORD"))
    connection = Connection(with_credentials(redis_url or found.redis_url, *account))
    try:
        await connection.check()
        yield connection, Keys(namespace or found.namespace)
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
