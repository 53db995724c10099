"""`glm4v bench load` and `glm4v bench products` as they are typed, and what a start leaves out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny

# What torch imports when it is asked for more than products and tensors: a second, and 70 MB.
HEAVY = ("sympy", "torch._dynamo", "torch._inductor", "torch.distributed.tensor")


def bench(*options: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "glm4v.cli", "bench", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_starts_are_measured_beside_reading_the_same_bytes(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    write_tiny(model)
    found = json.loads(
        bench("load", "--model", model, "--weight-dtype", "auto", "--rounds", 1, "--json")
    )
    assert found["bytes"] == Checkpoint.open(model).stored_bytes(vision=False)
    (one,) = found["rounds"]
    start = one["starts"]["auto"]
    assert 0 < start["imports_s"] < start["ready_s"] < 100
    assert 0 < start["held"] <= min(start["peak"], start["pss"])
    assert all(0 < one["reading"][name] < start["ready_s"] for name in ("kept_s", "buffer_s"))


@pytest.mark.needs_compiler
def test_products_are_measured_by_rows_and_bits() -> None:
    options = ("--outputs", 256, "--inputs", 128, "--matrices", 2, "--rounds", 1)
    rates = json.loads(bench("products", "--rows", 1, "--rows", 20, *options, "--json"))
    assert [(rate["rows"], rate["bits"]) for rate in rates] == [
        (rows, bits) for rows in (1, 20) for bits in (8, 16, 32)
    ]
    assert all(rate["weights_s"] > 0 for rate in rates)


@pytest.mark.parametrize("worker", ["lm_worker", "vision_worker"])
def test_a_worker_on_a_cpu_imports_nothing_heavy(worker: str) -> None:
    program = (
        f"import sys, {worker}.__main__\n"
        "from glm4v.device import DeviceOptions, best_device, open_device\n"
        "best_device()\n"
        "open_device(DeviceOptions('cpu'))\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []
