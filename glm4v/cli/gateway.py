"""The connection of a subcommand to a gateway."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm4v.cli.options import HTTPS
from glm4v.client import Client, Tls
from glm4v.errors import ConfigurationError, Unavailable

_CONNECT_S = 1.0  # short, for a user at a terminal
_KEY, _KEY_FILE = "GLM4V_API_KEY", "GLM4V_API_KEY_FILE"


@dataclass(frozen=True, slots=True)
class Access:
    """How a gateway lets this command in, as its options say.

    A key is in a file or a variable: other users of the machine can read arguments.

    Attributes:
        key_file: File with an API key; None takes that of the environment.
        ca: Authorities to trust. Any of these three files, or a name, means TLS.
        cert, key: Certificate to present, and its private key.
        server_name: Name in the gateway's certificate; None for that of the address.
    """

    key_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def api_key(self) -> str | None:
        """The key, if there is one. Raises ConfigurationError for a file that cannot be read."""
        if self.key_file is None and (key := os.environ.get(_KEY, "").strip()):
            return key
        path = self.key_file or os.environ.get(_KEY_FILE)
        if not path:
            return None
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise ConfigurationError(f"API key {path}: {error.strerror}") from None

    def tls(self, server: str) -> Tls | None:
        """Files for TLS; None for a server that is called without."""
        given = (self.ca, self.cert, self.key, self.server_name)
        return Tls(*given) if server.startswith(HTTPS) or any(given) else None


@contextmanager
def gateway(server: str, access: Access, timeout_s: float = 600.0) -> Iterator[Client]:
    """A connected client. Raises Unavailable, with advice, if no gateway answers."""
    with Client(
        server.removeprefix(HTTPS),
        timeout_s=timeout_s,
        api_key=access.api_key(),
        tls=access.tls(server),
    ) as client:
        try:
            client.connect(_CONNECT_S)
        except Unavailable as error:
            raise Unavailable(
                f"{error} `glm4v up` starts one; --server HOST:PORT selects another"
            ) from None
        yield client
