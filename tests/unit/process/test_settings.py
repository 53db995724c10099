"""Settings come from the environment, are frozen, and a wrong one is one line that names it."""

import pytest
from pydantic import ValidationError

from glm4v.errors import ConfigurationError
from glm4v.process.environment import OTHER_VARIABLES, PROCESSES, read_settings, variable_of
from glm4v.process.renamed_settings import RENAMED
from glm4v.process.service_links import may_be_service_link
from glm4v.process.settings import GatewaySettings, LmSettings

# What a kubelet sets for Services called glm4v, glm4v-gateway (IPv6) and glm4v-service.
KUBERNETES = {
    "GLM4V_SERVICE_HOST": "10.96.7.21",
    "GLM4V_SERVICE_PORT": "8330",
    "GLM4V_SERVICE_PORT_GRPC": "8330",
    "GLM4V_PORT": "tcp://10.96.7.21:8330",
    "GLM4V_PORT_8330_TCP": "tcp://10.96.7.21:8330",
    "GLM4V_PORT_8330_TCP_PROTO": "tcp",
    "GLM4V_PORT_8330_TCP_PORT": "8330",
    "GLM4V_PORT_8330_TCP_ADDR": "10.96.7.21",
    "GLM4V_GATEWAY_SERVICE_HOST": "fd00::1:9",
    "GLM4V_GATEWAY_SERVICE_PORT": "53",
    "GLM4V_GATEWAY_PORT": "udp://[fd00::1:9]:53",
    "GLM4V_GATEWAY_PORT_53_UDP": "udp://[fd00::1:9]:53",
    "GLM4V_GATEWAY_PORT_53_UDP_PROTO": "udp",
    "GLM4V_GATEWAY_PORT_53_UDP_PORT": "53",
    "GLM4V_GATEWAY_PORT_53_UDP_ADDR": "fd00::1:9",
    "GLM4V_SERVICE_SERVICE_HOST": "10.96.7.22",
    "GLM4V_SERVICE_SERVICE_PORT": "8330",
    "GLM4V_SERVICE_PORT_8330_TCP_ADDR": "10.96.7.22",
}
# What Docker sets for a container linked as "glm4v" whose image exposes a range of ports.
DOCKER = {
    "GLM4V_NAME": "/client/glm4v",
    "GLM4V_PORT": "tcp://172.17.0.5:8330",
    "GLM4V_PORT_8330_TCP_START": "tcp://172.17.0.5:8330",
    "GLM4V_PORT_8330_TCP_END": "tcp://172.17.0.5:8332",
    "GLM4V_PORT_8330_TCP_PORT_START": "8330",
    "GLM4V_PORT_8330_TCP_PORT_END": "8332",
    "GLM4V_ENV_GLM4V_MODEL": "/models/other",
}


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


def test_overrides_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_LEASE_S", "2.5")
    monkeypatch.setenv("GLM4V_DRAIN_TIMEOUT_S", "3")
    settings = read_settings(GatewaySettings, {"GLM4V_LEASE_S": "4", "PATH": "/bin"})
    assert (settings.lease_s, settings.drain_timeout_s) == (4.0, 3.0)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GLM4V_LEASE_SECONDS", "GLM4V_LEASE_S"),
        ("GLM4V_TENSOR_PARALLEL_SIZE", "GLM4V_TENSOR_PARALLEL"),
        ("GLM4V_MODEL_PATH", "GLM4V_MODEL"),
        ("GLM4V_HOST", "GLM4V_LISTEN"),
        ("glm4v_redis", "GLM4V_REDIS_URL"),
    ],
)
def test_a_variable_nobody_knows_is_an_error_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigurationError) as caught:
        read_settings(GatewaySettings)
    assert str(caught.value) == (
        f"unknown setting {variable}; did you mean {meant}? (glm4v settings lists all)"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_setting_that_was_renamed_is_refused_with_its_new_name(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    known = {name.upper() for kind in PROCESSES.values() for name in kind.model_fields}
    assert new in known
    assert old not in known
    monkeypatch.setenv(f"GLM4V_{old}", "2")
    with pytest.raises(ConfigurationError) as caught:
        read_settings(GatewaySettings)
    assert str(caught.value).startswith(f"unknown setting GLM4V_{old}; did you mean GLM4V_{new}? ")


def test_a_variable_like_no_other_gets_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_XYZZY", "2")
    with pytest.raises(ConfigurationError, match=r"^unknown setting GLM4V_XYZZY \(glm4v"):
        read_settings(GatewaySettings)


@pytest.mark.parametrize("links", [KUBERNETES, DOCKER])
def test_what_a_platform_says_about_other_services_passes(
    monkeypatch: pytest.MonkeyPatch, links: dict[str, str]
) -> None:
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    for kind in PROCESSES.values():
        assert read_settings(kind).model.name == "model"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLM4V_PORT", "8330"),
        ("GLM4V_PORT", "http://10.96.7.21:8330"),
        ("GLM4V_PORT", "tcp://example.org:8330"),
        ("GLM4V_SERVICE_HOST", "10.96.7.21"),  # alone
        ("GLM4V_SERVICE_PORT", "8330"),
        ("GLM4V_GATEWAY_PORT", "8330"),
        ("GLM4V_MODEL_NAME", "/models/glm-4v-9b"),
        ("GLM4V_ENV_MODEL", "/models/glm-4v-9b"),
        ("GLM4V_PORT_8330_TCP_PROTO", "http"),
        ("GLM4V_PORT_8330_TCP_PORT", "99999"),
        ("GLM4V_PORT_8330_TCP_ADDR", "here"),
    ],
)
def test_what_only_looks_like_a_platforms_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^unknown setting {name}\\b"):
        read_settings(GatewaySettings)


def test_no_setting_has_a_name_that_a_platform_may_set() -> None:
    """Such a setting would take the address of a Service as its value."""
    names = {variable_of(name) for kind in PROCESSES.values() for name in kind.model_fields}
    assert [name for name in (*names, *OTHER_VARIABLES) if may_be_service_link(name)] == []
    assert may_be_service_link("GLM4V_METRICS_PORT")
    assert may_be_service_link("GLM4V_SERVICE_HOST")


@pytest.mark.parametrize("name", OTHER_VARIABLES)
def test_variables_of_our_own_tools_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert read_settings(LmSettings).block_size == 0


def test_settings_of_other_processes_may_share_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLM4V_BLOCK_SIZE", "32")
    assert read_settings(GatewaySettings).listen == "127.0.0.1:8330"
    assert read_settings(LmSettings).block_size == 32


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GLM4V_BLOCK_SIZE", "-1", r"GLM4V_BLOCK_SIZE is '-1': .*greater than or equal to 0"),
        ("GLM4V_DRAIN_TIMEOUT_S", "inf", "GLM4V_DRAIN_TIMEOUT_S is 'inf': .*finite"),
        ("GLM4V_DTYPE", "fp8", "GLM4V_DTYPE is 'fp8': .*'bfloat16' or 'float16'$"),
        (
            "GLM4V_DTYPE",
            "weights16",
            r"did you mean GLM4V_DTYPE=float32 with GLM4V_WEIGHT_DTYPE=bfloat16\?$",
        ),
    ],
)
def test_a_value_that_cannot_be_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        read_settings(LmSettings)


def test_a_setting_that_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLM4V_MODEL")
    with pytest.raises(
        ConfigurationError, match=r"^GLM4V_MODEL is not set; it is the checkpoint folder"
    ):
        read_settings(LmSettings)


def test_a_password_in_the_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_REDIS_URL", "redis://:secret@example:6379/0")
    settings = read_settings(GatewaySettings)
    assert "secret" not in repr(settings) + str(settings)


def test_every_setting_says_what_it_is_and_numbers_say_their_unit() -> None:
    for kind in PROCESSES.values():
        for name, setting in kind.model_fields.items():
            if name != "listen":  # the base class says it for all
                assert setting.description, name
            if setting.annotation in (int, float):
                assert isinstance(setting.json_schema_extra, dict), name
                assert setting.json_schema_extra["unit"], name
