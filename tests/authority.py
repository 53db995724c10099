"""Certificate authorities for tests, and clients that trust them."""

import ssl
from pathlib import Path

import grpc
import trustme

from glm4v.process.tls import TlsFiles


class Authority:
    """A certificate authority.

    Attributes:
        pem: Its certificate.
    """

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def issue(self, folder: Path, name: str | None = None) -> TlsFiles:
        """Write a certificate for this machine and its key; `name` is the common name."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1", common_name=name)
        folder.mkdir(exist_ok=True)
        files = TlsFiles(folder / "tls.crt", folder / "tls.key")
        files.key.write_bytes(issued.private_key_pem.bytes())
        files.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        return files


def trusting(authority: Authority, client: TlsFiles | None = None) -> ssl.SSLContext:
    """The same as `trust` for clients of HTTP."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def trust(authority: Authority, client: TlsFiles | None = None) -> grpc.ChannelCredentials:
    """Credentials of a client that trusts an authority, and may present a certificate."""
    if client is None:
        return grpc.ssl_channel_credentials(authority.pem)
    return grpc.ssl_channel_credentials(
        authority.pem, client.key.read_bytes(), client.certificate.read_bytes()
    )
