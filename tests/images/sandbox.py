"""Runs a command of an image as its user, with a root file system that nobody can write to."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.images.build import Image

STOP_S = 40.0


def sandboxed(
    image: Image, environment: Mapping[str, str], command: Sequence[str], *options: str
) -> list[str]:
    """The command line: mounts by bubblewrap, then the user by setpriv, without a capability.

    The command is process 1, as in a container. The network is that of this machine.
    """
    uid, gid = image.user.split(":")
    mounts = ["--ro-bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev"]
    mounts += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf", "--chdir", "/"]
    for folder in ("/tmp", "/dev/shm"):
        mounts += ["--perms", "1777", "--tmpfs", folder]
    capabilities = [
        word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")
    ]
    variables = [
        word
        for name, value in (image.environment | dict(environment)).items()
        for word in ("--setenv", name, value)
    ]
    setpriv = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
    setpriv += ["--inh-caps=-all", "--bounding-set=-all"]
    words = ["bwrap", "--die-with-parent", "--unshare-pid", "--as-pid-1", "--clearenv"]
    return [*words, *options, *mounts, *variables, *capabilities, *setpriv, *command]


def run(image: Image, command: Sequence[str], timeout_s: float = 60.0) -> tuple[int, str]:
    """Exit code and output, both streams of it."""
    done = subprocess.run(
        sandboxed(image, {}, command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout.strip()


@contextmanager
def running(image: Image, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """The image's own command; SIGTERM at the end, to which it has to answer with exit code 0."""
    reading, writing = os.pipe()
    words = sandboxed(image, environment, image.command, "--json-status-fd", str(writing))
    with (
        open(reading, encoding="utf-8") as status,
        subprocess.Popen(words, pass_fds=[writing]) as process,
    ):
        os.close(writing)
        pid = json.loads(status.readline())["child-pid"]  # bubblewrap passes no signal on
        try:
            yield process
            os.kill(pid, signal.SIGTERM)
            code = process.wait(STOP_S)
            assert code == 0, f"{image.target} ended with {code} after SIGTERM"
        finally:
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
