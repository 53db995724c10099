"""Accepted keys follow their files: changes, swapped links of a mounted secret, broken files."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from glm4v.api_keys import ApiKeys, store
from glm4v.errors import ConfigurationError
from tests.api_keys import add_key, revoke_keys
from tests.processes import until


def test_keys_are_rotated_and_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    former = add_key(path, "ann")
    keys = ApiKeys(path)
    new = add_key(path, "ann")
    assert (keys.name_of(former), keys.name_of(new)) == ("ann", None)
    keys.reload()
    assert (keys.name_of(former), keys.name_of(new)) == ("ann", "ann")
    revoke_keys(path, "ann")
    bob = add_key(path, "bob")
    keys.reload()
    assert [keys.name_of(key) for key in (former, new, bob)] == [None, None, "bob"]


def test_a_mounted_secret_is_swapped_by_a_link(tmp_path: Path) -> None:
    """As kubelet does it: files are links through `..data`, which is replaced by a rename."""
    secret = tmp_path / "secret"
    secret.mkdir()

    def publish(version: str) -> str:
        folder = secret / f"..{version}"
        folder.mkdir()
        key = add_key(folder / "keys", version)
        (secret / "..data_tmp").symlink_to(folder.name)
        os.rename(secret / "..data_tmp", secret / "..data")
        return key

    former = publish("first")
    (secret / "keys").symlink_to("..data/keys")
    for path in (secret, secret / "keys"):
        assert ApiKeys(path).name_of(former) == "first"
    folder, file = ApiKeys(secret), ApiKeys(secret / "keys")
    new = publish("second")
    for keys in (folder, file):
        keys.reload()
        assert (keys.name_of(former), keys.name_of(new)) == (None, "second")


def test_a_file_added_to_a_folder_is_seen(tmp_path: Path) -> None:
    add_key(tmp_path / "a", "ann")
    keys = ApiKeys(tmp_path)
    bob = add_key(tmp_path / "b", "bob")
    keys.reload()
    assert keys.name_of(bob) == "bob"


@pytest.mark.parametrize("fault", ["broken", "gone", "writable"])
def test_a_broken_file_keeps_the_former_keys_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "ann")
    keys = ApiKeys(path)
    if fault == "broken":
        path.write_text(f"ann {key}\n")
    elif fault == "gone":
        path.unlink()
    else:
        revoke_keys(path, "ann")
        path.chmod(0o666)
    for _ in range(3):
        keys.reload()
        assert keys.name_of(key) == "ann"
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "the former keys stay" in record.getMessage()
    assert key not in caplog.text
    path.unlink(missing_ok=True)
    other = add_key(path, "ann")
    keys.reload()
    assert (keys.name_of(key), keys.name_of(other)) == (None, "ann")


def test_at_first_broken_files_are_an_error_and_no_keys_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        ApiKeys(tmp_path / "keys")
    (tmp_path / "keys").write_text("# none\n")
    assert ApiKeys(tmp_path / "keys").name_of("") is None
    assert "all calls are refused" in caplog.text


async def test_changes_are_seen_while_it_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHECK_S", 0.01)
    key = add_key(tmp_path / "keys", "ann")
    keys = ApiKeys(tmp_path / "keys")
    watch = asyncio.create_task(keys.watch())
    revoke_keys(tmp_path / "keys", "ann")
    await until(lambda: keys.name_of(key) is None)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
