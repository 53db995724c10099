"""Builds the images and runs them until the demo model answers: `make images-test`, as root.

    python -m tests.images --base IMAGE [--options WORDS] [--no-build]

Each process runs as the image's user, on a read-only root file system, with the variables of
deploy/compose.yaml. What is looked at, and each image's size, are lines on standard output.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.local.redis_server import find_server
from tests.deploy import compose
from tests.images.build import Image, build, mounted
from tests.images.sandbox import run, running
from tests.redis_nodes import free_port

TARGETS = ("gateway", "vision-worker", "lm-worker")
READY_S = 180.0
COMPILERS = ("c++", "cc", "g++", "gcc", "clang", "clang++")


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(f"images: {text}\n")
    sys.stdout.flush()


def examine(image: Image) -> None:
    """Who it runs as, what it cannot write, and what it lacks."""
    code, said = run(image, ["python", "-c", "import os; print(os.getuid(), os.getgid())"])
    assert (code, said) == (0, image.user.replace(":", " ")), said
    code, said = run(image, ["python", "-c", "open('/opt/glm4v/x', 'w')"])
    assert code != 0, "the root file system can be written to"
    assert "Read-only file system" in said, said
    look = f"import shutil; print([name for name in {COMPILERS} if shutil.which(name)])"
    assert run(image, ["python", "-c", look]) == (0, "[]"), "there is a compiler"
    look = "from importlib.util import find_spec; print(find_spec('torch') is not None)"
    has_torch = str(image.target != "gateway")
    assert run(image, ["python", "-c", look]) == (0, has_torch), "PyTorch is in the wrong image"
    say(f"{image.target}: {image.megabytes} MB, user {image.user}, read-only, no compiler")


def environments(ports: dict[str, int]) -> dict[str, dict[str, str]]:
    """Those of compose.yaml, with ports of this machine."""
    redis_url = f"redis://127.0.0.1:{ports['redis']}/0"
    found = {}
    for target in TARGETS:
        own = {"GLM4V_REDIS_URL": redis_url}
        own["GLM4V_HEALTH_LISTEN"] = f"127.0.0.1:{ports[target]}"
        own["GLM4V_LISTEN"] = f"127.0.0.1:{ports['grpc'] if target == 'gateway' else free_port()}"
        if target == "gateway":
            own["GLM4V_HTTP_LISTEN"] = f"127.0.0.1:{free_port()}"
        own["GLM4V_METRICS_LISTEN"] = f"127.0.0.1:{free_port()}"
        found[target] = compose.environment(target) | own
    return found


def wait_for(image: Image, port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the health check of compose.yaml succeeds."""
    check = compose.read("compose.yaml")["services"][image.target]["healthcheck"]["test"]
    command = [word.replace("8340", str(port)) for word in check[1:]]
    deadline = time.monotonic() + READY_S
    while run(image, command)[0] != 0:
        assert process.poll() is None, f"{image.target} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{image.target} is not ready after {READY_S:g} s"
        time.sleep(0.5)
    say(f"{image.target}: serving")


def ask(image: Image, server: str) -> None:
    """One question about an image that comes with the demo model."""
    example = next(each for each in demo_examples() if each.image is not None)
    assert example.image is not None
    path = Path("/opt/glm4v/demo-model") / example.image.relative_to(DEMO_MODEL)
    question, answer = example.turns[0]
    command = ["glm4v", "ask", "--server", server, "--temperature", "0", str(path), question]
    code, said = run(image, command, timeout_s=120)
    assert (code, said.partition("\n")[0]) == (0, answer), said
    say(f"{path.name}: {question} {said}")


def main() -> None:
    """Build, examine, run, ask, stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.images")
    parser.add_argument("--base", required=True, help="the image to start from, as BASE")
    parser.add_argument("--options", default="", help="further words for `buildah build`")
    parser.add_argument("--no-build", action="store_true", help="take those that were built before")
    chosen = parser.parse_args()
    if not chosen.no_build:
        for target in TARGETS:
            build(target, chosen.base, chosen.options)
    ports = {name: free_port() for name in ("redis", "grpc", *TARGETS)}
    with ExitStack() as stack:
        images = {target: stack.enter_context(mounted(target)) for target in TARGETS}
        for image in images.values():
            examine(image)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = [str(find_server()), "--bind", "127.0.0.1", "--port", str(ports["redis"])]
        redis = stack.enter_context(
            subprocess.Popen([*server, "--dir", folder], stdout=subprocess.DEVNULL)
        )
        stack.callback(redis.terminate)
        own = environments(ports)
        processes = {
            target: stack.enter_context(running(image, own[target]))
            for target, image in images.items()
        }
        for target, image in images.items():
            wait_for(image, ports[target], processes[target])
        ask(images["gateway"], own["gateway"]["GLM4V_LISTEN"])
    say("all processes ended with 0 after SIGTERM")


if __name__ == "__main__":
    main()
