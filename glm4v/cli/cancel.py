"""`glm4v cancel`: ends a request."""

import typer

from glm4v.cli import options as opt
from glm4v.cli.gateway import gateway
from glm4v.client import DEFAULT_TARGET


def cancel(
    request_id: opt.RequestId,
    server: opt.Server = DEFAULT_TARGET,
) -> None:
    """End a request. Harmless when it has ended already."""
    with gateway(server) as client:
        ended_now = client.cancel(request_id)
    typer.echo(f"{request_id} " + ("is cancelled" if ended_now else "had ended before"))
