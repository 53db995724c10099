"""Other commands find what `glm4v up` runs, and nothing that has ended."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from glm4v.errors import ConfigurationError, Unavailable
from glm4v.local.instances import Instance, register_instance, running_instances

ONE = Instance("127.0.0.1:8330", "unix:///tmp/one/redis.sock", "one")
TWO = Instance("127.0.0.1:8331", "unix:///tmp/two/redis.sock")
ANNOUNCE = (
    "import time; from glm4v.local.instances import Instance, register_instance\n"
    "with register_instance(Instance('127.0.0.1:9', 'unix:///killed')):\n"
    "    print('there', flush=True); time.sleep(60)"
)


@pytest.fixture(params=["runtime folder", "temporary folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if request.param == "runtime folder":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with register_instance(ONE):
        [folder] = tmp_path.iterdir()
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(0o700)
    return folder


def test_what_runs_is_found_and_gone_with_its_end(folder: Path) -> None:
    assert running_instances() == []
    with register_instance(TWO):
        with register_instance(ONE):
            assert running_instances() == [ONE, TWO]
        assert running_instances() == [TWO]
    assert not folder.exists()
    assert running_instances() == []


def test_only_this_user_can_read_them(folder: Path) -> None:
    with register_instance(ONE):
        assert folder.stat().st_mode & 0o077 == 0
        assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0]


def test_what_was_killed_is_not_found_and_its_file_goes(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ANNOUNCE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [each.redis_url for each in running_instances()] == ["unix:///killed"]
        process.kill()
    assert len(list(folder.iterdir())) == 1
    assert running_instances() == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_enter_is_not_used(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(Unavailable, match="accessible to other users"):
        running_instances()


def test_a_file_of_somebody_else_is_passed_over(folder: Path) -> None:
    with register_instance(ONE), register_instance(TWO):
        first, second = sorted(folder.iterdir())
        first.write_text('{"another": "program"}')
        assert len(running_instances()) == 1
        second.write_text("not JSON")
        assert running_instances() == []


def test_dead_asks_which_when_several_run(folder: Path) -> None:
    from glm4v.cli import deployment

    assert deployment._find_instance().redis_url == "redis://127.0.0.1:6379/0"
    with register_instance(ONE):
        assert deployment._find_instance() == ONE
        with (
            register_instance(TWO),
            pytest.raises(ConfigurationError, match=r"2 systems .*8330.*8331"),
        ):
            deployment._find_instance()
