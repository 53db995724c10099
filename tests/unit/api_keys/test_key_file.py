"""Files of API keys: what they hold, who may read them, and what is refused."""

import re
import stat
from pathlib import Path

import pytest

from glm4v.api_keys.key import KeyEntry, check_name, digest_of, new_key
from glm4v.api_keys.key_file import changed_key_file, read_key_files
from glm4v.errors import ConfigurationError
from tests.api_keys import add_key

SECRET = "glm4v_" + "s3cr3t" * 7 + "x"


def test_keys_are_random_and_only_their_form_has_a_digest() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert len({digest_of(key) for key in keys} - {None}) == 100
    [key, *_] = keys
    for other in ("", "password", key[:-1], f"{key}x", f" {key}", f"{key}\n", key.upper(), "ключ"):
        assert digest_of(other) is None


def test_a_file_holds_digests_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text()
    [found] = read_key_files(path)
    assert (found.name, found.digest) == ("ann", digest_of(key))
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_a_changed_file_keeps_its_permissions_and_its_link(tmp_path: Path) -> None:
    path, link = tmp_path / "keys", tmp_path / "link"
    add_key(path, "ann")
    path.chmod(0o640)
    link.symlink_to("keys")
    add_key(link, "bob")
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [each.name for each in read_key_files(path)] == ["ann", "bob"]


def test_a_change_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "ann")
    before = path.read_bytes()

    def fail(entries: list[KeyEntry]) -> None:
        entries.clear()
        raise KeyError

    with pytest.raises(KeyError), changed_key_file(path) as entries:
        fail(entries)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_lines_may_be_comments_or_empty_and_end_as_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\r\n\r\nann sha256:{1:064x}\r\nbob\tsha256:{2:064x} 2026-11-30\r\n")
    assert read_key_files(path) == [
        KeyEntry("ann", f"{1:064x}"),
        KeyEntry("bob", f"{2:064x}", "2026-11-30"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"ann {SECRET}",
        f"ann sha256:{SECRET}",
        f"ann sha256:{1:064X}".replace("1", "A"),
        f"ann sha256:{1:064x} today and more",
        f"a/b sha256:{1:064x}",
        f"sha256:{1:064x}",
        "\x00",
    ],
)
def test_another_line_is_refused_by_number_and_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 2 is not NAME sha256:DIGEST") as error:
        read_key_files(path)
    assert SECRET not in str(error.value)


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(path))}: No such file"):
        read_key_files(path)
    add_key(path, "ann")
    path.chmod(0o602)
    with pytest.raises(ConfigurationError, match="anyone may write it"):
        read_key_files(path)
    path.chmod(0o600)
    (tmp_path / "keys~").write_bytes(path.read_bytes())
    with pytest.raises(ConfigurationError, match="the same key is there twice"):
        read_key_files(tmp_path)
    with pytest.raises(ConfigurationError, match="a folder"), changed_key_file(tmp_path):
        pass
    for name in ("", "a b", "-a", "a" * 65, "CN=a", "ä"):
        with pytest.raises(ConfigurationError, match="not a name for a key"):
            check_name(name)
