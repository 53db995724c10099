"""deploy/run_pa.sh as users of MindIE's guide type it, on the demo model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.performance_csv import MINDIE_HEADER
from glm4v.checkpoint.demo import DEMO_MODEL

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/run_pa.sh"
FAKE = '#!/bin/sh\nprintf "%s\\n" "$@"\n'  # in place of glm4v: prints its arguments


def run_pa(
    *arguments: object,
    commands: Path = Path(sys.executable).parent,
    cwd: Path | None = None,
    **variables: str,
) -> "subprocess.CompletedProcess[str]":
    """`commands` is the folder of glm4v."""
    path = f"{commands}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "GLM4V_THREADS": "1", **variables}
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def printing(tmp_path: Path) -> Path:
    """The folder of a glm4v that prints its arguments."""
    command = tmp_path / "glm4v"
    command.write_text(FAKE)
    command.chmod(0o755)
    return tmp_path


def images(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(DEMO_MODEL / "examples" / name, folder)
    return folder


def test_performance_measures_every_batch_size_on_all_visible_devices(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", "dog.png")
    done = run_pa(
        "--performance", DEMO_MODEL, folder, 2, 2048, 3, "-trust_remote_code",
        cwd=tmp_path,
        ASCEND_RT_VISIBLE_DEVICES="0,1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "glm4v_performance.csv").read_text().splitlines(keepends=True)
    assert lines[0] == MINDIE_HEADER
    # Questions, then tokens of question, answer and prompt.
    assert [line.split(", ")[:3] for line in lines[1:]] == [
        ["1", "3", "3,74"],
        ["2", "3", "3,74"],
    ]


def test_two_images_for_performance_are_refused(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", "dog.png", "rocket.png")
    done = run_pa("--performance", DEMO_MODEL, folder)
    assert done.returncode == 3
    assert "has 2 images (dog.png, rocket.png)" in done.stderr


def test_defaults_are_the_guides(printing: Path) -> None:
    run = run_pa("--run", "/w", commands=printing).stdout.split()
    common = ["/home/data/images/", "--model", "/w", "--max-tokens", "256"]
    common += ["--tensor-parallel", "1"]
    assert run == ["batch", *common, "--batch", "1", "--max-input", "2048"]
    performance = run_pa("--performance", "/w", commands=printing).stdout.split()
    sizes = [word for size in range(1, 11) for word in ("--batch", str(size))]
    assert performance == ["bench", "offline", *common, *sizes]
    precision = run_pa("--precision", "/w", commands=printing).stdout.split()
    limits = ["--batch", "1", "--max-input", "2048", "--out", "predict_result.json"]
    assert precision == ["precision", "predict", *common, *limits]


def test_a_folder_may_have_blanks_in_its_name(printing: Path) -> None:
    done = run_pa("--run", "/my weights", "/my images", 4, commands=printing)
    assert done.stdout.splitlines()[:4] == ["batch", "/my images", "--model", "/my weights"]


@pytest.mark.parametrize("flag", ["-trust_remote_code", "--trust_remote_code"])
@pytest.mark.parametrize("place", range(7))
def test_trust_is_accepted_anywhere_and_changes_nothing(
    flag: str, place: int, printing: Path
) -> None:
    words = ["--run", "/w", "/i", "4", "1024", "64"]
    plain = run_pa(*words, commands=printing)
    words.insert(place, flag)
    done = run_pa(*words, commands=printing)
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert f"{flag} is not needed: code in a checkpoint is never run" in done.stderr
    assert "--batch\n4\n--max-input\n1024" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--run, --performance or --precision is missing"),
        (["--run"], "WEIGHT, the folder of the checkpoint, is missing"),
        (["--run", "--performance", "/w"], "--run and --performance: one of them at a time"),
        (
            ["--accuracy", "/w"],
            "unknown option --accuracy; --run, --performance and --precision are accepted",
        ),
        (
            ["--run", "/w", "/i", "many"],
            "MAX_BATCH is 'many'; a whole number from 1 to 99999 is needed",
        ),
        (["--run", "/w", "/i", "1", "0"], "MAX_INPUT is '0'"),
        (["--run", "/w", "/i", "1", "2", "3", "4"], "the sixth is '4'; at most 5 are accepted"),
        (["--run", "/w", "--question"], "--question needs a value"),
    ],
)
def test_a_wrong_call_explains_itself(arguments: list[str], said: str, printing: Path) -> None:
    done = run_pa(*arguments, commands=printing)
    assert (done.returncode, done.stdout) == (2, "")
    first, usage = done.stderr.splitlines()[:2]
    assert said in first
    assert usage.startswith("usage: run_pa.sh --run|--performance|--precision WEIGHT")


@pytest.mark.parametrize("port", ["19999", "20051", "http", "020030x"])
def test_a_port_outside_the_guides_range_is_refused(port: str, printing: Path) -> None:
    done = run_pa("--run", "/w", commands=printing, MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"MASTER_PORT is '{port}'; 20000 to 20050 is accepted" in done.stderr


def test_devices_and_variables_of_the_guide(printing: Path) -> None:
    done = run_pa(
        "--run", "/w",
        commands=printing,
        ASCEND_RT_VISIBLE_DEVICES="4,5,6,7",
        MASTER_PORT="20036",
        TASK_QUEUE_ENABLE="1",
        ATB_CONTEXT_WORKSPACE_SIZE="0",
        LCCL_ENABLE_FALLBACK="1",
    )  # fmt: skip
    assert "--tensor-parallel\n4\n" in done.stdout
    assert "MASTER_PORT has no effect: the ranks of one host meet in a file" in done.stderr
    assert "TASK_QUEUE_ENABLE=1 is handed on to torch_npu" in done.stderr
    assert "ATB_CONTEXT_WORKSPACE_SIZE=0 has no effect on glm4v" in done.stderr
    assert "LCCL_ENABLE_FALLBACK=1 has no effect on glm4v" in done.stderr
    wrong = run_pa("--run", "/w", commands=printing, ASCEND_RT_VISIBLE_DEVICES="0;1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "numbers with commas between them are needed" in wrong.stderr
