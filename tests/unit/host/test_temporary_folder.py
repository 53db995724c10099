"""What a killed process leaves is removed by the next one; what lives is never touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.host.temporary_folder import TemporaryFolder

HOLD = """
import sys, time
from pathlib import Path
from glm4v.host.temporary_folder import TemporaryFolder
folder = TemporaryFolder("up", Path(sys.argv[1]))
(folder.path / "data").mkdir()
(folder.path / "data" / "image").write_bytes(b"of a user")
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))


def test_it_is_private_and_gone_after_its_end(tmp_path: Path) -> None:
    with TemporaryFolder("up", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("root")
def test_the_next_one_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        with TemporaryFolder("ranks", tmp_path):
            assert (left / "data" / "image").exists()  # its owner lives
        owner.kill()
    assert (left / "data" / "image").exists()
    with TemporaryFolder("ranks", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_folders_of_others_and_what_looks_like_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "glm4v-data").mkdir()
    (tmp_path / "glm4v-data" / "lock").touch()  # that of a data folder
    (tmp_path / "glm4v-file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".temporary.lock").touch()
    (tmp_path / "glm4v-link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    TemporaryFolder("up", tmp_path).close()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TemporaryFolder("up", tmp_path / "absent")
