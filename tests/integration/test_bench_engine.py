"""`glm4v bench engine` as it is typed."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of milliseconds: those of the tiny one are as short as the event loop's turns."""
    folder = tmp_path_factory.mktemp("bench") / "model"
    config = json.loads(
        resources.files("glm4v.checkpoint").joinpath("tiny_config.json").read_bytes()
    )
    wider = {"hidden_size": 512, "ffn_hidden_size": 2048, "kv_channels": 64, "num_layers": 4}
    write_checkpoint(config | wider, 1, None, folder)
    return folder


def bench(*options: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "glm4v.cli", "bench", "engine", "--threads", "1"]
    return subprocess.run(
        [*command, *map(str, options)], capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.needs_compiler
def test_every_point_is_measured_and_its_parts_make_the_step(model: Path, tmp_path: Path) -> None:
    plot = tmp_path / "engine.png"
    dtypes = ("--dtype", "float32", "--weight-dtype", "auto", "--weight-dtype", "bfloat16")
    loads = ("--batch", 1, "--batch", 3, "--context", 20, "--context", 40, "--steps", 12)
    done = bench("--model", model, *dtypes, *loads, "--json", "--plot", plot)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    names = ("float32", "float32, weights bfloat16")
    asked = [(d, b, c) for d in names for c in (20, 40) for b in (1, 3)]
    assert [(at["dtype"], at["batch"], at["context"]) for at in points] == asked
    for at in points:
        assert at["prefill_tokens_s"] > 0
        assert at["decode_tokens_s"] == pytest.approx(at["batch"] / at["step_s"])
        parts = at["parts"]
        assert set(parts) == {"plan", "device", "sample", "publish"}
        assert min(parts.values()) > 0
        reads = at["step_bytes"] / at["read_bytes_s"]
        assert at["roofline_share"] == pytest.approx(reads / at["step_s"])
    # The best of the points, and all of them together: what else the machine does only adds.
    assert min(sum(at["parts"].values()) / at["step_s"] for at in points) < 1.5
    totals = {part: sum(at["parts"][part] for at in points) for part in points[0]["parts"]}
    assert totals["device"] == max(totals.values())
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.needs_compiler
def test_a_step_reads_all_weights_but_the_word_table_and_its_rows_of_the_cache(
    model: Path,
) -> None:
    dtypes = ("--dtype", "float32", "--weight-dtype", "bfloat16")
    done = bench("--model", model, *dtypes, "--batch", 3, "--context", 20, "--json")
    (point,) = json.loads(done.stdout)["points"]
    spec = Checkpoint.open(model).spec
    query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layer = spec.hidden_size * (query + 2 * key + query + 3 * spec.ffn_size + 2) + query + 2 * key
    weights = spec.layers * layer + spec.hidden_size * (spec.vocab_size + 1) + spec.rotary_dim // 2
    rows = 3 * (20 + 32)  # half of 64 steps
    cache = rows * spec.layers * 2 * key * 4
    assert point["step_bytes"] == 2 * weights + cache


def test_more_than_the_model_takes_is_refused_with_the_numbers(model: Path) -> None:
    refused = bench("--model", model, "--context", 600, "--steps", 8)
    assert refused.returncode == 3
    assert "tokens of context and output requested, the model takes 512" in refused.stderr
    assert refused.stderr.count("\n") == 1
