"""A gateway without keys is reached from its own machine only, unless it is told otherwise."""

from glm4v.errors import ConfigurationError
from glm4v.process.listen_address import is_loopback
from glm4v.process.settings import GatewaySettings


def check_exposure(settings: GatewaySettings, *addresses: str) -> None:
    """Raises ConfigurationError, with what to set, if anybody could use a gateway from elsewhere.

    Args:
        settings: Of the gateway.
        addresses: Where it is to listen, as HOST:PORT or unix:/PATH.
    """
    if settings.api_keys or settings.tls_client_ca or settings.allow_anonymous:
        return
    for address in addresses:
        if not is_loopback(address):
            raise ConfigurationError(
                f"without API keys the gateway does not listen on {address}, where anybody on the "
                "network could use it: set GLM4V_API_KEYS to a file that `glm4v keys new NAME "
                "--file FILE` has made, or GLM4V_ALLOW_ANONYMOUS=true if something else decides "
                "who may call"
            )
