"""The examples run, and say what the demo model says about a image."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.local.cluster import ClusterSettings, LocalCluster
from tests.scripted_gateway import ScriptedGateway, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TYPESCRIPT = EXAMPLES / "typescript"
IMAGE = DEMO_MODEL / "examples" / "dog.png"
TEXTS = ("content", "generated_text", "text_output")
BIN = Path(sys.executable).parent
QUESTION, ANSWER = "What can you see?", "A dog."  # examples.json


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    """The demo model, over gRPC and HTTP."""
    async with LocalCluster(ClusterSettings(DEMO_MODEL, http_port=0)) as cluster:
        yield cluster


def run(*command: object, cwd: Path = ROOT) -> str:
    """The output of a command that succeeds; `python` and `buf` are those of these tests."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_python(cluster: LocalCluster) -> None:
    out = run("python", EXAMPLES / "ask.py", cluster.target, IMAGE, QUESTION).splitlines()
    assert out[0] == ANSWER
    assert out[1].endswith(" tokens so far")
    assert out[2] in ("animal: True", "animal: False")


async def test_python_with_asyncio(cluster: LocalCluster) -> None:
    targets = f"127.0.0.1:1,{cluster.target}"  # nobody is at the first
    out = run("python", EXAMPLES / "ask_async.py", targets, IMAGE)
    assert out.splitlines()[:2] == ["model: demo_model", "What is this? A dog."]
    assert len(out.splitlines()) == 4


@pytest.mark.needs_curl
@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("form", ["openai", "tgi", "mindie", "vllm", "triton"])
async def test_curl(cluster: LocalCluster, form: str, stream: str) -> None:
    out = run(EXAMPLES / "curl" / "ask.sh", form, cluster.http_url, IMAGE, QUESTION, stream)
    texts = [text for frame in frames(out) for text in texts_of(frame)]
    assert ANSWER in (texts[-1], "".join(texts))


def frames(out: str) -> list[Any]:
    """The JSON objects of a body or of a stream, with or without server-sent events."""
    lines = (line.removeprefix("data:").strip() for line in out.replace("\0", "\n").splitlines())
    return [json.loads(line) for line in lines if line.startswith(("{", "[{"))]


def texts_of(value: Any) -> Iterator[str]:
    """Every text of an answer, whatever a format calls it."""
    if isinstance(value, list):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in TEXTS and isinstance(item, str):
                yield item
            elif name == "text" and isinstance(item, list):  # vLLM
                yield from (text.removeprefix(QUESTION) for text in item)
            else:
                yield from texts_of(item)


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example, built; its link to protos/ leads to this checkout."""
    folder, installed = tmp_path_factory.mktemp("examples") / "a" / "b", "node_modules"
    shutil.copytree(TYPESCRIPT, folder, ignore=shutil.ignore_patterns(installed, "dist", "gen"))
    (folder / installed).symlink_to(TYPESCRIPT / installed)
    (folder.parents[1] / "protos").symlink_to(ROOT / "protos")
    run("npm", "run", "generate", cwd=folder)
    run("npm", "run", "build", cwd=folder)
    return folder


@pytest.mark.needs_typescript
async def test_typescript(cluster: LocalCluster, typescript: Path) -> None:
    out = run("npm", "start", "-s", "--", cluster.target, IMAGE, QUESTION, cwd=typescript)
    assert out == f"{ANSWER}\n"


@pytest.mark.needs_typescript
async def test_typescript_goes_on_after_a_break(typescript: Path) -> None:
    gateway = ScriptedGateway([0, 7, 2])
    with serving(gateway) as (target, _):
        out = run("npm", "start", "-s", "--", target, IMAGE, QUESTION, cwd=typescript)
    assert out == "一只 cat!。\n"
    assert [(call, offset) for call, _, offset in gateway.calls] == [
        ("generate", 0),
        ("generate", 0),
        ("attach", 3),
        ("attach", 4),
    ]


@pytest.mark.needs_go_plugins
async def test_go(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "go" / "buf.gen.yaml", tmp_path)
    run("buf", "generate", ROOT / "protos", "--path", ROOT / "protos/glm4v/v1", cwd=tmp_path)
    made = tmp_path / "gen" / "glm4v" / "v1"
    assert "func NewInferenceServiceClient(" in (made / "inference_grpc.pb.go").read_text()
    assert "type GenerateRequest struct {" in (made / "inference.pb.go").read_text()


@pytest.mark.needs_notebooks
async def test_notebook(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("GATEWAY", cluster.target)
    monkeypatch.setenv("IMAGE", str(IMAGE))
    notebook = nbformat.read(EXAMPLES / "ask.ipynb", as_version=4)
    await NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute()
    printed = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert printed[1] == ANSWER
    assert printed[2].strip() in ("yes", "no")
