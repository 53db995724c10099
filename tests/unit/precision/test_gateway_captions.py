"""`glm4v precision predict --gateway` against a small real gRPC server."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from glm4v.client import AsyncClient
from glm4v.errors import InvalidRequest, Overloaded, Unauthenticated
from offline.image_folder import images_in
from precision import gateway_captions
from precision.captions import read_captions
from precision.gateway_captions import caption_by_gateway
from precision.prediction import Prediction
from tests.scripted_gateway import ANSWER, GenerationEvents, ScriptedGateway, serving

CAPTION = "".join(ANSWER) + "。"


class Gateway(ScriptedGateway):
    """Answers `most` requests and holds all others."""

    def __init__(self, breaks: list[int], most: int = 1000) -> None:
        super().__init__(breaks)
        self.most = most
        self.under_way = self.most_under_way = 0
        self._counting = threading.Lock()

    def _events(self, request_id: str, offset: int, context: Any) -> GenerationEvents:
        with self._counting:
            self.most -= 1
            is_held = self.most < 0
            self.under_way += 1
            self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            time.sleep(0.02)
            while is_held and context.is_active():
                time.sleep(0.01)
            yield from super()._events(request_id, offset, context)
        finally:
            with self._counting:
                self.under_way -= 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):
        Image.new("RGB", (4 + number, 4)).save(folder / f"{number}.png")
    return folder


async def caption(gateway: Gateway, prediction: Prediction, at_once: int = 2) -> None:
    with serving(gateway) as (target, _):
        async with AsyncClient(target) as client:
            await caption_by_gateway(client, "What?", 8, at_once, prediction)


async def test_every_image_is_asked_about_once_and_a_bounded_number_at_a_time(
    folder: Path, tmp_path: Path
) -> None:
    done: list[None] = []
    out = tmp_path / "out.json"
    prediction = Prediction(images_in(folder), out, lambda: done.append(None))
    gateway = Gateway([])
    await caption(gateway, prediction)
    assert read_captions(out) == {f"{number}.png": CAPTION for number in range(9)}
    assert len(done) == len(gateway.requests) == 9
    assert gateway.most_under_way == 2
    assert {(each.max_tokens, each.sampling.temperature) for each in gateway.requests} == {(8, 0.0)}
    assert Prediction(images_in(folder), out).left == []


async def test_an_image_that_fails_is_named_and_the_others_have_captions(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "0.png").write_bytes(b"no image")
    prediction = Prediction(images_in(folder), tmp_path / "out.json")
    gateway = Gateway([0])
    gateway.status = (grpc.StatusCode.INVALID_ARGUMENT, "too wide")
    await caption(gateway, prediction, at_once=1)
    assert {name: type(each) for name, each in prediction.failures.items()} == {
        "0.png": InvalidRequest,
        "1.png": InvalidRequest,
    }
    assert str(prediction.failures["1.png"]) == "too wide"
    assert list(read_captions(tmp_path / "out.json")) == [f"{n}.png" for n in range(2, 9)]


async def test_a_full_system_is_asked_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_captions, "_PAUSES_S", (0.0, 0.0))
    prediction = Prediction([folder / "0.png"], tmp_path / "out.json")
    gateway = Gateway([0, 0])
    gateway.status = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    await caption(gateway, prediction)
    assert prediction.failures == {}
    gateway = Gateway([0, 0, 0])
    gateway.status = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    await caption(gateway, prediction)
    assert isinstance(prediction.failures["0.png"], Overloaded)


async def test_a_system_that_answers_nobody_ends_the_run_and_captions_stay(
    folder: Path, tmp_path: Path
) -> None:
    prediction = Prediction(images_in(folder), tmp_path / "out.json")
    gateway = Gateway([99, 0])
    gateway.status = (grpc.StatusCode.UNAUTHENTICATED, "no valid key")
    with pytest.raises(Unauthenticated, match="no valid key"):
        await caption(gateway, prediction, at_once=1)
    assert list(read_captions(tmp_path / "out.json")) == ["0.png"]


def start(folder: Path, target: str, out: Path) -> "subprocess.Popen[str]":
    words = ["precision", "predict", folder, "--gateway", target, "--out", out, "--batch", "3"]
    return subprocess.Popen(
        [sys.executable, "-m", "glm4v.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def captions(out: Path) -> Iterator[int]:
    """How many there are, again and again for 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        yield len(read_captions(out)) if out.exists() else 0
        time.sleep(0.01)


def test_a_killed_run_loses_the_images_under_way_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    gateway = Gateway([], most=4)
    with serving(gateway) as (target, _):
        run = start(folder, target, out)
        try:
            assert any(count == 4 for count in captions(out))
        finally:
            run.kill()
            run.communicate()
        assert len(gateway.requests) <= 4 + 3
        kept = read_captions(out)
        gateway.most = 1000
        gateway.requests.clear()
        run = start(folder, target, out)
        said, errors = run.communicate(timeout=30)
    assert run.returncode == 0, errors
    assert len(gateway.requests) == 9 - 4  # nothing is asked twice
    assert "4 of 9 images have a caption in" in errors
    assert f"9 of 9 captions in {out}" in said
    assert read_captions(out).items() >= kept.items()
