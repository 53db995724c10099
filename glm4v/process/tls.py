"""TLS of a listener: its certificate is read again when its files change."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from glm4v.errors import ConfigurationError
from glm4v.host.file_version import file_version

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_TRIES = 3  # to read files that are being replaced


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: Of the server, followed by those of intermediate authorities.
        key: Private key of that certificate, without a password.
        client_ca: Authorities for certificates that clients have to present (mutual TLS); None
            asks clients for no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


def tls_files(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> TlsFiles | None:
    """Files as settings name them; None without TLS. Raises ConfigurationError if one is missing.

    They are checked here, so that a process does not start with what it cannot use.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        missing = "GLM4V_TLS_CERT" if certificate is None else "GLM4V_TLS_KEY"
        raise ConfigurationError(f"{missing} is not set; TLS needs a certificate and its key")
    files = TlsFiles(certificate, key, client_ca)
    _configuration(files)
    return files


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials whose files may be replaced while the server runs.

    Connections made before keep their certificate. Files that cannot be used are logged once, and
    the certificate before them stays. Raises ConfigurationError when the first ones cannot be used.
    """
    reloaded = _Reloaded(files, _configuration)
    return grpc.dynamic_ssl_server_credentials(
        reloaded.value,
        reloaded.changed,  # type: ignore[arg-type] # may return None
        require_client_authentication=files.client_ca is not None,
    )


class ServerContext(ssl.SSLContext):
    """The same for servers that use Python's own TLS; they speak HTTP/1.1."""

    def __new__(cls, files: TlsFiles) -> "ServerContext":
        """An empty context: those that are loaded make the connections."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: TlsFiles) -> None:
        self._reloaded = _Reloaded(files, _context)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """The TLS of a new connection, which asyncio asks for."""
        self._reloaded.changed()
        return self._reloaded.value.wrap_bio(*arguments, **options)


class _Reloaded(Generic[_T]):
    """What is made of the files, again when they change.

    Looks at them before each handshake, which costs microseconds.
    """

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], _T]) -> None:
        self._files, self._make = files, make
        self.value, self._version = self._read()

    def changed(self) -> _T | None:
        """The new value, or None; gRPC calls it in a thread of its own."""
        version = _version(self._files)
        if version == self._version:
            return None
        self._version = version
        try:
            self.value, self._version = self._read()
        except ConfigurationError as error:
            log.error(
                "TLS files changed but cannot be used; the former certificate stays: %s", error
            )
            return None
        log.info("TLS certificate reloaded from %s", self._files.certificate)
        return self.value

    def _read(self) -> tuple[_T, object]:
        """Of files that belong together, though somebody may be replacing them one by one."""
        for _ in range(_TRIES):
            version = _version(self._files)
            value = self._make(self._files)
            if _version(self._files) == version:
                break
        return value, version


def _version(files: TlsFiles) -> object:
    return [file_version(path) for path in files.paths]


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    key, certificate = (
        _bytes(files.key, "GLM4V_TLS_KEY"),
        _bytes(files.certificate, "GLM4V_TLS_CERT"),
    )
    client_ca = _bytes(files.client_ca, "GLM4V_TLS_CLIENT_CA") if files.client_ca else None
    _context(files)  # gRPC would only fail at each handshake
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _bytes(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{variable} {path}: {error.strerror}") from None


def _context(files: TlsFiles) -> ssl.SSLContext:
    """Raises ConfigurationError for files that OpenSSL does not take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a password would be asked for on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"GLM4V_TLS_CERT {files.certificate} and GLM4V_TLS_KEY {files.key} are not a "
            f"certificate and its key in PEM, without a password ({_reason(error)})"
        ) from None
    if files.client_ca is None:
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"GLM4V_TLS_CLIENT_CA {files.client_ca} has no certificate in PEM ({_reason(error)})"
        ) from None
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
