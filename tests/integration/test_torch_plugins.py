"""An installed plug-in of torch that prints and raises, as torch_npu does without its driver.

torch 2.13.0 imports every entry point of the group `torch.backends` with itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.local.cluster import ClusterSettings, LocalCluster

PLUGIN = """
import os, sys
from pathlib import Path

def load():
    with Path(__file__).with_name("loaded-by").open("a") as log:
        print(os.getpid(), sys.argv, file=log)
    print("a greeting of the vendor's")
    raise RuntimeError("libdriver.so: cannot open shared object file")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed plug-in, which every process finds; it logs who loads it."""
    folder = tmp_path / "site"
    information = folder / "loud_backend-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "loud_backend.py").write_text(PLUGIN)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: loud-backend\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text("[torch.backends]\nloud = loud_backend:load\n")
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    )
    return folder


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_its_object_alone(
    plugin: Path, checkpoint_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = run(sys.executable, "-c", "import torch")
    assert bare.stdout == "a greeting of the vendor's\n"  # so it would be loaded
    assert bare.returncode == 1
    (plugin / "loaded-by").unlink()

    messages = tmp_path / "messages.json"
    messages.write_text('[{"role": "user", "content": "Hello"}]')
    command = Path(sys.executable).with_name("glm4v")
    model = checkpoint_dir("micro-glm4v")
    words: list[str | Path] = [
        "--model",
        model,
        "--messages",
        messages,
        "--max-tokens",
        "3",
        "--json",
    ]
    done = run(command, "generate", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["completion_tokens"] <= 3
    assert not (plugin / "loaded-by").exists()


async def test_workers_and_all_ranks_start_without_it(
    plugin: Path, checkpoint_dir: Callable[[str], Path]
) -> None:
    settings = ClusterSettings(
        model=checkpoint_dir("micro-glm4v"),
        restart=False,
        environment={"GLM4V_TENSOR_PARALLEL": "2"},
    )
    async with LocalCluster(settings) as cluster:
        with Client(cluster.target) as client:
            asked = [user_message("Hello")]
            with client.generate(asked, max_tokens=3, ignore_eos=True) as answer:
                assert "".join(answer.texts())
    assert not (plugin / "loaded-by").exists()
