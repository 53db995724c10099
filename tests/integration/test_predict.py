"""Captions of a folder by the scripts of MindIE's guide, on the demo model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.checkpoint.demo import DEMO_MODEL
from tests.integration.test_run_pa import SCRIPT, run_pa

COCO = SCRIPT.parent / "precision/run_coco_gpu.py"
CAPTIONS = {"dog.png": "狗。", "rocket.png": "火箭。"}  # what the demo model says, as in its card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, and one that ends in the middle."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in CAPTIONS:
        shutil.copy(DEMO_MODEL / "examples" / name, folder)
    whole = (folder / "dog.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_precision_captions_a_folder_and_names_an_image_that_fails(
    folder: Path, tmp_path: Path
) -> None:
    given = ("--precision", DEMO_MODEL, folder, 3, 2048, 32, "-trust_remote_code")
    done = run_pa(*given, cwd=tmp_path)
    assert done.returncode == 3
    assert "half.png: the PNG image" in done.stderr
    assert "is damaged or truncated" in done.stderr
    assert "2 of 3 captions in predict_result.json" in done.stdout
    result = tmp_path / "predict_result.json"
    assert json.loads(result.read_text(encoding="utf-8")) == CAPTIONS
    (folder / "half.png").unlink()
    again = run_pa(*given, cwd=tmp_path)
    assert again.returncode == 0
    assert "2 of 2 images have a caption in predict_result.json already" in again.stderr


def test_the_gpu_script_takes_its_arguments_and_writes_its_file(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "half.png").unlink()
    words = (COCO, "--model_path", DEMO_MODEL, "--image_path", folder, "--trust_remote_code")
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--trust_remote_code is not needed" in done.stderr
    result = tmp_path / "gpu_coco_predict.json"
    assert json.loads(result.read_text(encoding="utf-8")) == CAPTIONS
