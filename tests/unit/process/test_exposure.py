"""A gateway that lets anybody in stays on loopback, unless a setting says otherwise."""

import pytest

from glm4v.errors import ConfigurationError
from glm4v.process.environment import read_settings
from glm4v.process.exposure import check_exposure
from glm4v.process.settings import GatewaySettings

LOOPBACK = ["127.0.0.1:8330", "127.0.0.2:0", "[::1]:8330", "localhost:8330", "unix:/run/a.sock"]
NETWORK = ["0.0.0.0:8330", "[::]:8330", "192.0.2.7:8330", ":8330", "nowhere.invalid:8330"]


def settings(**variables: str) -> GatewaySettings:
    given = {f"GLM4V_{name.upper()}": value for name, value in variables.items()}
    return read_settings(GatewaySettings, {"GLM4V_MODEL": "model", **given})


@pytest.mark.parametrize("address", LOOPBACK)
def test_this_machine_needs_no_key(address: str) -> None:
    check_exposure(settings(), address)


@pytest.mark.parametrize("address", NETWORK)
def test_the_network_does_and_the_error_says_what_to_set(address: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_exposure(settings(), LOOPBACK[0], address)
    for words in (address, "GLM4V_API_KEYS", "glm4v keys new", "GLM4V_ALLOW_ANONYMOUS=true"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "given",
    [{"api_keys": "keys"}, {"tls_client_ca": "ca.crt"}, {"allow_anonymous": "true"}],
)
def test_keys_certificates_or_an_explicit_setting_open_it(given: dict[str, str]) -> None:
    check_exposure(settings(**given), *NETWORK)


def test_a_certificate_of_the_server_alone_lets_anybody_in() -> None:
    with pytest.raises(ConfigurationError):
        check_exposure(settings(tls_cert="crt", tls_key="key"), "0.0.0.0:8330")
