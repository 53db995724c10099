"""The compose files: valid, and their settings, targets and times are those that there are."""

import re
from typing import Any

import jsonschema
import pytest

from glm4v.process.environment import PROCESSES, variable_of
from tests.deploy import compose
from tests.deploy.dockerfile import DOCKERFILE, ROOT, stages

FILES = ("compose.yaml", "compose.cuda.yaml", "compose.keys.yaml")
KINDS = {"gateway": "gateway", "vision-worker": "vision worker", "lm-worker": "language worker"}


def services() -> dict[str, Any]:
    found = compose.read("compose.yaml")["services"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid(name: str) -> None:
    jsonschema.validate(compose.read(name), compose.schema())


def test_the_schema_refuses_a_misspelt_key() -> None:
    redis = services()["redis"] | {"restrat": "always"}
    with pytest.raises(jsonschema.ValidationError, match="restrat"):
        jsonschema.validate({"services": {"redis": redis}}, compose.schema())


@pytest.mark.parametrize(("service", "kind"), KINDS.items())
@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_a_setting_of_its_process(name: str, service: str, kind: str) -> None:
    """An unknown one would end the process at its start."""
    known = {variable_of(field) for field in PROCESSES[kind].model_fields}
    listed = compose.read(name)["services"].get(service, {}).get("environment", {})
    assert {variable for variable in listed if variable.startswith("GLM4V_")} <= known


@pytest.mark.parametrize(("service", "kind"), KINDS.items())
def test_values_are_accepted(service: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in compose.environment(service).items():
        monkeypatch.setenv(variable, value)
    settings = PROCESSES[kind]()
    assert settings.drain_timeout_s + 5 == float(services()[service]["stop_grace_period"][:-1])


@pytest.mark.parametrize("service", KINDS)
def test_an_image_is_built_from_the_target_of_its_name(service: str) -> None:
    build = services()[service]["build"]
    known = stages(DOCKERFILE.read_text(encoding="utf-8"))
    assert build["target"] == service
    assert build["target"] in known
    assert (compose.FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]) == DOCKERFILE
    assert services()[service]["image"].startswith(f"glm4v/{service}:")


@pytest.mark.parametrize("service", KINDS)
def test_a_process_can_write_to_its_temporary_folder_alone(service: str) -> None:
    listed = services()[service]
    assert listed["read_only"] is True
    assert listed["tmpfs"] == ["/tmp"]
    assert all(volume.endswith(":ro") for volume in listed["volumes"])
    assert listed["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("service", ["vision-worker", "lm-worker"])
@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_a_worker_has_a_share_of_the_memory(name: str, service: str) -> None:
    """Without a limit the KV cache of each takes half of all that is free on the host."""
    limit = compose.read(name)["services"][service]["mem_limit"]
    variable = f"{service.replace('-', '_').upper()}_MEMORY"
    assert re.fullmatch(r"\d+gb", compose.substituted(limit))
    assert compose.substituted(limit, **{variable: "40gb"}) == "40gb"
    assert variable in (ROOT / "docs" / "images.md").read_text(encoding="utf-8")


def test_who_needs_no_key_comes_from_this_host() -> None:
    gateway = services()["gateway"]
    assert gateway["environment"]["GLM4V_ALLOW_ANONYMOUS"] == "true"
    assert gateway["ports"]
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    opened = compose.read("compose.keys.yaml")
    assert opened["services"]["gateway"]["environment"] == {
        "GLM4V_API_KEYS": "/run/secrets/api-keys",
        "GLM4V_ALLOW_ANONYMOUS": "false",
    }
    assert opened["services"]["gateway"]["secrets"] == list(opened["secrets"])


def test_redis_keeps_what_was_accepted() -> None:
    words = services()["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "volatile-lru"
    assert services()["redis"]["volumes"] == ["redis:/data"]
