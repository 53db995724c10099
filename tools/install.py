"""Installs packages into the environment that runs this: `tools/install.py [REQUIREMENT...]`.

Without requirements they are the project with all its extras, as setup.sh wants it.

PyPI's torch for Linux brings CUDA along, several gigabytes that a machine without an NVIDIA GPU
never loads. There the CPU build is installed first, where pip's own sources do not have it already:
uv knows the index of those builds. torchvision loads beside a torch of its own build alone, and is
taken from there too. Whatever will be downloaded is summed up before it is.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.request import Request, url2pathname, urlopen

REQUIREMENTS = sys.argv[1:] or ["-e", ".[dev]"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = [sys.executable, "-m", "uv"]
LOOK_S = 60.0  # for uv to say whether there is a CPU build
SIZE_S = 5.0  # for one server to say how large one file is
CUDA = ("nvidia-", "cuda-")  # names of the packages that carry it
MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Download:
    """A package that pip will install."""

    name: str
    version: str
    url: str


def planned(report: dict[str, Any]) -> list[Download]:
    """What `pip install --dry-run --report` says, the project itself left out."""
    return [
        Download(
            item["metadata"]["name"].lower(),
            item["metadata"]["version"],
            item["download_info"]["url"],
        )
        for item in report["install"]
        if "dir_info" not in item["download_info"]
    ]


def unneeded_cuda(
    plan: Sequence[Download], installed: str = "", dev: Path = Path("/dev")
) -> list[str]:
    """What would come with CUDA though there is no GPU for it, as requirements.

    torchvision is among it beside a CPU build of torch, planned or `installed` (its version).
    """
    if shutil.which("nvidia-smi") is not None or any(dev.glob("nvidia[0-9]*")):
        return []
    versions = {download.name: download.version for download in plan}
    unneeded = []
    if "torch" in versions and any(name.startswith(CUDA) for name in versions):
        unneeded.append("torch")
    is_cpu = bool(unneeded) or versions.get("torch", installed).endswith("+cpu")
    if is_cpu and "torchvision" in versions and not versions["torchvision"].endswith("+cpu"):
        unneeded.append("torchvision")
    return [f"{name}=={versions[name].partition('+')[0]}" for name in unneeded]


def size(download: Download) -> int | None:
    """Bytes of the file; None where its server does not say."""
    try:
        if download.url.startswith("file:"):
            return Path(url2pathname(download.url.removeprefix("file://"))).stat().st_size
        with urlopen(Request(download.url, method="HEAD"), timeout=SIZE_S) as reply:
            return int(reply.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None


def summary(plan: Sequence[Download]) -> str:
    """How much pip will download at most; what it has in its cache it does not download again."""
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(size, plan))
    total = sum(filter(None, sizes)) / MEGABYTE
    unknown = sizes.count(None)
    more = f", and {unknown} whose size is not known" if unknown else ""
    return f"{len(plan)} packages, {total:.0f} MB to download at most{more}"


def install_cpu_build(
    wanted: Sequence[str], uv: Sequence[str] = tuple(UV), look_s: float = LOOK_S
) -> bool:
    """Install packages as built for CPUs; False where they cannot be had."""
    command = [*uv, "pip", "install", "--python", sys.executable, "--no-deps"]
    command += ["--torch-backend", "cpu", *wanted]
    # A machine that is cut off must learn it soon; a slow download may take its time.
    patience = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1"}
    try:
        subprocess.run(
            [*command, "--dry-run"],
            check=True,
            capture_output=True,
            timeout=look_s,
            env=os.environ | patience,
        )
        subprocess.run(command, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"setup: {text}\n")


def main() -> None:
    """Plan, say, install."""
    say("looking up what is needed")
    plan = look()
    wanted = unneeded_cuda(plan, installed_torch())
    if wanted:
        say(
            f"PyPI's {' and '.join(wanted)} come with CUDA, and there is no NVIDIA GPU: trying CPU "
            "builds"
        )
        subprocess.run([*PIP, "install", "-q", "uv"], check=True)
        if install_cpu_build(wanted):
            plan = look()
        else:
            say("CPU builds cannot be had from here: torch works with CUDA as well")
    say(summary(plan))
    subprocess.run([*PIP, "install", *REQUIREMENTS], check=True)


def installed_torch() -> str:
    """The version of torch in this environment; "" where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def look() -> list[Download]:
    """What pip would install now."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        dry = ["install", "-q", "--dry-run", "--report", str(report)]
        subprocess.run([*PIP, *dry, *REQUIREMENTS], check=True)
        return planned(json.loads(report.read_bytes()))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        say(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}")
        sys.exit(1)
