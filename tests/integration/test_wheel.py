"""A wheel, installed away from the checkout, gives the same command and the small client."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from glm4v.local.cluster import is_serving
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEPENDENCIES = Path(sysconfig.get_paths()["purelib"])
CLIENT_NEEDS = ("grpc", "google", "typing_extensions.py")
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT], folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, *dependencies: Path) -> Path:
    """A fresh environment with the wheel; what it depends on is borrowed from ours."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))
    (site / "borrowed.pth").write_text("\n".join(map(str, dependencies)))
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    run([*pip, "--no-deps", "--disable-pip-version-check", "--no-index", wheel], folder)
    return folder / "bin"


def run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GLM4V_"))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`glm4v` of an installation with all extras."""
    return install(wheel, tmp_path_factory.mktemp("all"), DEPENDENCIES) / "glm4v"


@pytest.fixture(scope="module")
def target(command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a system started by the installed command."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run([command, "tiny", folder / "model"], folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [command, "up", "--model", "model", "--port", str(port), "--http-port", "0"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"
    wait_until(lambda: is_serving(address), TIMEOUT_S)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)


def test_the_sources_of_the_kernels_are_in_the_wheel(wheel: Path) -> None:
    sources = ROOT / "glm4v" / "device" / "cpu" / "kernels" / "source"
    packed = zipfile.ZipFile(wheel).namelist()
    assert {str(file.relative_to(ROOT)) for file in sources.iterdir()} <= set(packed)


def test_the_installed_command_serves_and_asks(command: Path, target: str, tmp_path: Path) -> None:
    ask: list[str | Path] = [command, "ask", "Hello", "--server", target, "--temperature", "0"]
    answer = json.loads(run([*ask, "--max-tokens", "5", "--ignore-eos", "--json"], tmp_path))
    assert len(answer["token_ids"]) == 5
    assert answer["finish_reason"] == "length"


def test_without_extras_the_client_works_and_pulls_in_nothing_heavy(
    wheel: Path, target: str, tmp_path: Path
) -> None:
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for name in CLIENT_NEEDS:
        (borrowed / name).symlink_to(DEPENDENCIES / name)
    python = install(wheel, tmp_path / "client", borrowed) / "python"
    program = f"""
import sys
from glm4v.client import Client
from glm4v.client.messages import user_message
with Client("{target}") as client:
    with client.generate([user_message("Hello")], max_tokens=3, temperature=0) as answer:
        print(len("".join(answer.texts())) >= 0)
print(sorted({{"torch", "redis", "numpy", "PIL"}} & set(sys.modules)))
"""
    assert run([python, "-c", program], tmp_path).split("\n") == ["True", "[]"]


def test_without_extras_the_command_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for name in CLIENT_NEEDS:
        (borrowed / name).symlink_to(DEPENDENCIES / name)
    command = install(wheel, tmp_path / "client", borrowed) / "glm4v"
    done = subprocess.run(
        [command, "ask", "Hello"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 2
    assert "pip install 'glm4v-serve[gateway,worker]'" in done.stderr
    assert done.stderr.count("\n") == 1
    for module, extra in (("gateway", "gateway"), ("vision_worker", "worker")):
        done = subprocess.run(
            [command.with_name("python"), "-m", module],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 2
        assert f"pip install 'glm4v-serve[{extra}]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_examples_of_the_demo_model_lie_where_it_is_installed(
    command: Path, tmp_path: Path
) -> None:
    lines = run([command, "examples"], tmp_path).splitlines()
    images = [word for line in lines for word in shlex.split(line) if word.endswith(".png")]
    assert len(images) > 5
    assert all(Path(image).is_file() for image in images)
    assert all(image.startswith(str(command.parents[1])) for image in images)
