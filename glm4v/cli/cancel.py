"""`glm4v cancel`: cancels a request."""

import typer

from glm4v.cli import options as opt
from glm4v.cli.gateway import Access, gateway
from glm4v.client import DEFAULT_TARGET


def cancel(
    request_id: opt.RequestId,
    server: opt.Server = DEFAULT_TARGET,
    api_key_file: opt.ApiKeyFile = None,
    tls_ca: opt.TlsCa = None,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    tls_server_name: opt.TlsServerName = None,
) -> None:
    """Cancel a request. Does nothing if it has ended."""
    with gateway(
        server, Access(api_key_file, tls_ca, tls_cert, tls_key, tls_server_name)
    ) as client:
        is_cancelled = client.cancel(request_id)
    typer.echo(f"{request_id} " + ("cancelled" if is_cancelled else "had already ended"))
