"""`glm4v attach`: streams an existing request."""

from typing import Annotated

import typer

from glm4v.cli import options as opt
from glm4v.cli.gateway import Access, gateway
from glm4v.cli.reading import INTERRUPTED, stream
from glm4v.client import DEFAULT_TARGET


def attach(
    request_id: opt.RequestId,
    offset: Annotated[
        list[int] | None,
        typer.Option(help="Tokens to skip; repeat for each choice, in order."),
    ] = None,
    server: opt.Server = DEFAULT_TARGET,
    api_key_file: opt.ApiKeyFile = None,
    tls_ca: opt.TlsCa = None,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    tls_server_name: opt.TlsServerName = None,
    timeout: opt.Timeout = 600.0,
) -> None:
    """Stream the answer of a request that is running or ended recently.

    Ctrl-C stops the stream; the request keeps running.
    """
    access = Access(api_key_file, tls_ca, tls_cert, tls_key, tls_server_name)
    try:
        with (
            gateway(server, access, timeout) as client,
            client.attach(request_id, *(offset or ())) as generation,
        ):
            stream(generation)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
