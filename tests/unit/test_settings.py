"""Settings come from the environment, are frozen, and a wrong one is one line that names it."""

import pytest
from pydantic import ValidationError

from glm4v.errors import InvalidRequest
from glm4v.settings import GatewaySettings, LmSettings, read_settings


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one setting without a default."""
    monkeypatch.setenv("GLM4V_MODEL", "model")


def test_a_setting_is_read_and_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_LEASE_S", "2.5")
    settings = read_settings(GatewaySettings)
    assert settings.lease_s == 2.5
    with pytest.raises(ValidationError):
        setattr(settings, "lease_s", 3.0)  # noqa: B010


def test_a_variable_nobody_knows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_LEASE_SECONDS", "2")
    with pytest.raises(InvalidRequest, match="GLM4V_LEASE_SECONDS"):
        read_settings(GatewaySettings)


def test_settings_of_other_processes_may_share_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLM4V_BLOCK_SIZE", "32")
    assert read_settings(GatewaySettings).listen == "127.0.0.1:8330"
    assert read_settings(LmSettings).block_size == 32


def test_a_value_out_of_range_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_BLOCK_SIZE", "0")
    with pytest.raises(InvalidRequest, match=r"GLM4V_BLOCK_SIZE: .*greater than or equal to 1"):
        read_settings(LmSettings)


def test_a_password_in_the_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_REDIS_URL", "redis://:secret@example:6379/0")
    settings = read_settings(GatewaySettings)
    assert "secret" not in repr(settings) + str(settings)
