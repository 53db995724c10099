"""`glm4v attach`: reads a request that was started before."""

from typing import Annotated

import typer

from glm4v.cli import options as opt
from glm4v.cli.gateway import gateway
from glm4v.cli.reading import INTERRUPTED, stream
from glm4v.client import DEFAULT_TARGET


def attach(
    request_id: opt.RequestId,
    offset: Annotated[
        list[int] | None,
        typer.Option(help="Tokens to leave out at the start; once for each choice, in order."),
    ] = None,
    server: opt.Server = DEFAULT_TARGET,
    timeout: opt.Timeout = 600.0,
) -> None:
    """Read the answer to a request that runs, or ended a short while ago.

    Ctrl-C stops reading only.
    """
    try:
        with (
            gateway(server, timeout) as client,
            client.attach(request_id, *(offset or ())) as generation,
        ):
            stream(generation)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
