"""Sockets find a place whatever TMPDIR is."""

import os
from pathlib import Path

import pytest

from glm4v.local.runtime_folder import RuntimeFolder


@pytest.mark.parametrize("name", [b"x" * 120, b"caf\xe9"])
def test_sockets_leave_a_folder_whose_path_they_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    odd = tmp_path / os.fsdecode(name)
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    run = RuntimeFolder()
    sockets = run.socket("gateway").parent
    assert run.path.parent == odd
    assert len(os.fsencode(run.socket("vision_worker-10"))) <= 107
    str(sockets).encode()
    run.close()
    assert not sockets.exists()
    assert list(odd.iterdir()) == []


def test_one_folder_is_enough_where_its_path_is_short(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("t")))
    run = RuntimeFolder()
    assert run.socket("redis") == run.path / "redis.sock"
    run.close()
