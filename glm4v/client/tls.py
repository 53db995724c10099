"""TLS to a gateway."""

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from glm4v.client.channel import ChannelOptions
from glm4v.errors import ConfigurationError

_Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom a client trusts, and which certificate it presents. All files are PEM.

    Args:
        ca: Certificates of the authorities to trust; None trusts those that gRPC includes.
        cert: The client's certificate, for a gateway that asks for one, and those that signed it.
        key: The private key of `cert`.
        server_name: The name that the gateway's certificate must have; None takes that of the
            address. For a gateway behind a forwarded port.
    """

    ca: _Path | None = None
    cert: _Path | None = None
    key: _Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC wants them. Raises ConfigurationError with the path of an unreadable file."""
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("tls: cert and key belong together; set both or neither")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("ca", self.ca),
            private_key=_pem("key", self.key),
            certificate_chain=_pem("cert", self.cert),
        )

    def channel_options(self) -> ChannelOptions:
        """The options of a channel with these credentials."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def _pem(name: str, path: _Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"tls: cannot read {name} {path}: {reason}") from None
    if b"-----BEGIN " not in content:
        raise ConfigurationError(f"tls: {name} {path} is not a PEM file")
    return content
