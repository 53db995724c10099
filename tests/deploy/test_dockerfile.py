"""deploy/Dockerfile: lint, who its processes are, and what each target contains."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.deploy import compose
from tests.deploy.dockerfile import DOCKERFILE, ROOT, copied_stages, lineage, setting, stages
from tools.requirements import PROJECT, requirements

HADOLINT = Path(sys.executable).with_name("hadolint")
TARGETS = ("gateway", "vision-worker", "lm-worker", "tools")
USER = "10001"
MODULES = {"gateway": "gateway", "vision-worker": "vision_worker", "lm-worker": "lm_worker"}


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HADOLINT, "--no-color", dockerfile],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_hadolint_has_no_finding() -> None:
    done = lint(DOCKERFILE)
    assert (done.stdout, done.returncode) == ("", 0)


def test_hadolint_would_have_findings(tmp_path: Path) -> None:
    worse = tmp_path / "Dockerfile"
    text = DOCKERFILE.read_text(encoding="utf-8").replace("# hadolint ignore=DL3008\n", "")
    worse.write_text(text, encoding="utf-8")
    assert "DL3008" in lint(worse).stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_the_number_that_compose_uses(target: str) -> None:
    assert setting(target, "USER") == f"{USER}:{USER}"
    assert setting(target, "ENTRYPOINT") == "[]"
    service = compose.read("compose.yaml")["services"].get(target)
    assert service is None or service["user"] == f"{USER}:{USER}"


@pytest.mark.parametrize(("target", "module"), MODULES.items())
def test_a_target_starts_its_process(target: str, module: str) -> None:
    assert json.loads(setting(target, "CMD")) == ["python", "-m", module]
    assert (ROOT / module / "__main__.py").is_file()


def test_ports_are_those_of_the_listeners() -> None:
    assert setting("gateway", "EXPOSE") == "8330 8080 8340 8350"
    environment = compose.environment("gateway")
    listeners = ("LISTEN", "HTTP_LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN")
    ports = [environment[f"GLM4V_{name}"].rpartition(":")[2] for name in listeners]
    assert ports == setting("gateway", "EXPOSE").split()


def extras_installed(target: str) -> list[str]:
    """Those that the packages of a target are installed with."""
    [source] = [name for name in copied_stages(target) if name.endswith("-packages")]
    known = stages(DOCKERFILE.read_text(encoding="utf-8"))
    [command] = [value for _, value in known[source].instructions if "install-packages.sh" in value]
    _, *extras = command.partition("install-packages.sh ")[2].split()
    return extras


def test_the_gateway_is_installed_without_torch() -> None:
    assert extras_installed("gateway") == ["gateway", "otlp"]
    assert "kernels" not in copied_stages("gateway")
    assert not [line for line in requirements(PROJECT, ["gateway", "otlp"]) if "torch" in line]


@pytest.mark.parametrize("target", ["vision-worker", "lm-worker", "tools"])
def test_what_computes_has_torch_and_prebuilt_kernels(target: str) -> None:
    extras = extras_installed(target)
    assert [line for line in requirements(PROJECT, extras) if line.startswith("torch>=")]
    assert "kernels" in copied_stages(target)


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_starts_from_a_stage_with_a_compiler(target: str) -> None:
    names = [stage.name for stage in lineage(target)]
    assert "base" in names
    assert "build" not in names


def test_an_unknown_extra_is_refused() -> None:
    with pytest.raises(KeyError, match="wroker"):
        requirements(PROJECT, ["wroker"])


def test_what_is_copied_is_in_the_context() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for stage in stages(DOCKERFILE.read_text(encoding="utf-8")).values():
        for name, value in stage.instructions:
            if name == "COPY" and not value.startswith("--from="):
                *sources, _ = value.split()
                for source in sources:
                    assert (ROOT / source).exists()
                    assert f"!{source}" in kept


def test_every_package_of_the_wheel_is_in_the_images() -> None:
    """The command imports some of them only when it is asked for what they do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    code = stages(DOCKERFILE.read_text(encoding="utf-8"))["code"]
    copied = [value.split()[0] for name, value in code.instructions if name == "COPY"]
    assert set(packages) <= set(copied)


def test_the_chart_names_the_same_images_user_and_model() -> None:
    chart = ROOT / "deploy" / "helm" / "glm4v"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    security = values["podSecurityContext"]
    assert (str(security["runAsUser"]), str(security["runAsGroup"])) == (USER, USER)
    services = compose.read("compose.yaml")["services"]
    components = {"gateway": "gateway", "vision": "vision-worker", "language": "lm-worker"}
    version = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    for component, target in components.items():
        repository = values[component]["image"]["repository"]
        assert compose.substituted(services[target]["image"]) == f"{repository}:{version}"
    assert compose.environment("gateway")["GLM4V_MODEL"] == values["model"]["path"]
    [link] = [value for _, value in lineage_of_files() if "ln -s" in value]
    assert f" {values['model']['path']}" in link
    service = values["gateway"]["service"]
    assert [str(service["port"]), str(service["httpPort"])] == setting("gateway", "EXPOSE").split()[
        :2
    ]
    redis = values["redis"]["bundled"]["image"]
    assert services["redis"]["image"] == f"{redis['repository']}:{redis['tag']}"


def lineage_of_files() -> list[tuple[str, str]]:
    """The instructions of the stages that the packages of an image come from."""
    return [each for stage in lineage("worker-packages") for each in stage.instructions]
