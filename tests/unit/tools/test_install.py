"""What `make setup` decides before anything is downloaded."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import install
from tools.install import Download, install_cpu_build, planned, size, summary, unneeded_cuda

PLAIN = [Download("torch", "2.13.0+cpu", "file:///t.whl"), Download("numpy", "2.4", "file:///n")]
WITH_CUDA = [*PLAIN, Download("nvidia-cublas", "13.1", "file:///c.whl")]
TORCHVISION = Download("torchvision", "0.28.0", "file:///v.whl")


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without NVIDIA's tools, whatever this one has."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_report_of_pip_is_read() -> None:
    report = {
        "install": [
            {
                "metadata": {"name": "glm4v-serve", "version": "0.1.0"},
                "download_info": {"url": "file:///project", "dir_info": {"editable": True}},
            },
            {
                "metadata": {"name": "Torch", "version": "2.13.0"},
                "download_info": {"url": "https://files/torch.whl", "archive_info": {}},
            },
        ]
    }
    assert planned(report) == [Download("torch", "2.13.0", "https://files/torch.whl")]


def test_cuda_is_unneeded_without_a_gpu_alone(tmp_path: Path) -> None:
    assert unneeded_cuda(WITH_CUDA, "", tmp_path) == ["torch==2.13.0"]
    toolkit = Download("cuda-toolkit", "13", "file:///")
    assert unneeded_cuda([*PLAIN, toolkit], "", tmp_path) == ["torch==2.13.0"]
    assert unneeded_cuda(PLAIN, "", tmp_path) == []
    assert unneeded_cuda([], "", tmp_path) == []
    (tmp_path / "nvidia0").touch()
    assert unneeded_cuda([*WITH_CUDA, TORCHVISION], "", tmp_path) == []


def test_torchvision_is_of_the_build_of_torch(tmp_path: Path) -> None:
    both = ["torch==2.13.0", "torchvision==0.28.0"]
    assert unneeded_cuda([*WITH_CUDA, TORCHVISION], "", tmp_path) == both
    assert unneeded_cuda([*PLAIN, TORCHVISION], "", tmp_path) == both[1:]
    assert unneeded_cuda([TORCHVISION], "2.13.0+cpu", tmp_path) == both[1:]
    assert unneeded_cuda([TORCHVISION], "2.13.0", tmp_path) == []
    cpu = Download("torchvision", "0.28.0+cpu", "file:///v.whl")
    assert unneeded_cuda([*PLAIN, cpu], "2.13.0+cpu", tmp_path) == []


def test_a_driver_counts_as_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").touch(0o755)  # under Windows there are no such devices
    assert unneeded_cuda(WITH_CUDA, "", tmp_path / "dev") == []


def test_an_installed_torch_stays(tmp_path: Path) -> None:
    rest = [Download("nvidia-cublas", "13.1", "file:///c.whl")]  # without torch among them
    assert unneeded_cuda(rest, "", tmp_path) == []


class Files(http.server.BaseHTTPRequestHandler):
    """Says how large its one file is."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/known.whl" else 404)
        self.send_header("Content-Length", "3000000")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_sizes_are_those_of_files_and_of_servers(server: str, tmp_path: Path) -> None:
    (tmp_path / "with space+cpu.whl").write_bytes(bytes(2_000_000))
    here = Download("one", "1", (tmp_path / "with space+cpu.whl").as_uri())
    there = Download("two", "1", f"{server}/known.whl")
    unknown = Download("three", "1", f"{server}/unknown.whl")
    gone = Download("four", "1", (tmp_path / "gone.whl").as_uri())
    assert [size(d) for d in (here, there, unknown, gone)] == [2_000_000, 3_000_000, None, None]
    assert summary([here, there]) == "2 packages, 5 MB to download at most"
    assert summary([here, unknown]).endswith(
        "2 MB to download at most, and 1 whose size is not known"
    )
    assert summary([]) == "0 packages, 0 MB to download at most"


def uv(tmp_path: Path, program: str) -> list[str]:
    """A program in uv's place, which gets uv's arguments."""
    path = tmp_path / "uv.py"
    path.write_text(
        f"import sys, time, pathlib\nlog = pathlib.Path({str(tmp_path)!r}, 'log')\n{program}"
    )
    return [sys.executable, str(path)]


def test_the_cpu_build_is_looked_for_before_it_is_installed(tmp_path: Path) -> None:
    program = uv(tmp_path, "log.open('a').write(' '.join(sys.argv[1:]) + '\\n')")
    assert install_cpu_build(["torch==2.13.0"], program)
    looked, installed = (tmp_path / "log").read_text().splitlines()
    assert looked == f"{installed} --dry-run"
    assert installed.endswith("--no-deps --torch-backend cpu torch==2.13.0")


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit(2)",
        "time.sleep(60)",
        "sys.exit('--dry-run' not in sys.argv)",
    ],
    ids=["refuses", "hangs", "fails later"],
)
def test_without_a_cpu_build_pip_goes_on(tmp_path: Path, program: str) -> None:
    assert not install_cpu_build(["torch==2.13.0"], uv(tmp_path, program), look_s=1.5)


def test_the_installed_uv_knows_the_command(tmp_path: Path) -> None:
    """Kept off the network it fails for want of an index (1), not for its arguments (2)."""
    program = f"""
import subprocess
offline = ["--offline", "--cache-dir", {str(tmp_path)!r}]
done = subprocess.run([*{install.UV!r}, *sys.argv[1:], *offline], capture_output=True, text=True)
log.write_text(f"{{done.returncode}} {{done.stderr}}")
sys.exit(done.returncode)
"""
    assert not install_cpu_build(["torch==0.0.1"], uv(tmp_path, program))
    said = (tmp_path / "log").read_text()
    assert said.startswith("1 ")
    assert "torch==0.0.1" in said
