"""`glm4v cancel`: cancels a request."""

import typer

from glm4v.cli import options as opt
from glm4v.cli.gateway import gateway
from glm4v.client import DEFAULT_TARGET


def cancel(
    request_id: opt.RequestId,
    server: opt.Server = DEFAULT_TARGET,
) -> None:
    """Cancel a request. Does nothing if it has ended."""
    with gateway(server) as client:
        is_cancelled = client.cancel(request_id)
    typer.echo(f"{request_id} " + ("cancelled" if is_cancelled else "had already ended"))
