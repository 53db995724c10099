"""Builds the targets of deploy/Dockerfile by buildah, which needs no engine."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.dockerfile import ROOT

BUILD_S = 1800.0
SHORT_S = 120.0


@dataclass(frozen=True, slots=True)
class Image:
    """A built image, mounted: its files and its configuration."""

    target: str
    root: Path
    megabytes: int  # its layers, not compressed
    user: str  # UID:GID
    environment: dict[str, str]
    command: list[str]


def buildah(*arguments: str, timeout_s: float = SHORT_S) -> str:
    """Standard output; raises CalledProcessError."""
    done = subprocess.run(
        ["buildah", *arguments], stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True
    )
    return done.stdout.strip()


def build(target: str, base: str, options: str) -> None:
    """Build `glm4v/TARGET:test` on the image `base`; `options` are further words for buildah."""
    command = ["build", "--isolation", "chroot", "--layers", "-f", "deploy/Dockerfile"]
    command += ["--target", target, "-t", f"glm4v/{target}:test", "--build-arg", f"BASE={base}"]
    buildah(*command, *shlex.split(options), str(ROOT), timeout_s=BUILD_S)


@contextmanager
def mounted(target: str) -> Iterator[Image]:
    """The image of a target; its files may be read until the end."""
    name = f"glm4v/{target}:test"
    described = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    size = json.loads(buildah("images", "--json", name))[0]["size"]
    container = buildah("from", "--pull-never", name)
    try:
        yield Image(
            target=target,
            root=Path(buildah("mount", container)),
            megabytes=round(_bytes(size) / 10**6),
            user=described["User"],
            environment=dict(each.split("=", 1) for each in described["Env"]),
            command=described["Cmd"],
        )
    finally:
        buildah("rm", container)


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
