"""docs/protocol.md lists every key and every script."""

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from glm4v.broker.connection import _SCRIPTS
from glm4v.broker.keys import Keys

DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
PLACES = {"fingerprint": "MODEL", "digest": "DIGEST", "request_id": "REQUEST", "reader": "GATEWAY"}
PLACES |= {"queue": "lm:MODEL", "client": "CLIENT", "owner": "OWNER"}


def first_column(heading: str) -> set[str]:
    """What stands in code in the first column of a section's first table."""
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def all_keys() -> set[str]:
    """Every name that `Keys` can make."""
    keys, found = Keys("NS"), set()
    for name in dir(keys):
        if name.startswith("_") or name in ("namespace", "journal_prefix"):
            continue
        member = getattr(keys, name)
        if callable(member):
            names = member.__code__.co_varnames[1 : member.__code__.co_argcount]
            member = member(*(PLACES[each] for each in names))
            member = member.replace(hashlib.sha256(b"OWNER").hexdigest(), "OWNER")
        found.add(member)
    return found


def test_every_key_is_listed() -> None:
    listed = first_column("Keys")
    assert all_keys() <= listed
    beside = {"{NS}:journal:REQUEST/K"}  # made by the script and by `choice_id`
    assert listed - all_keys() - beside <= {"{NS}:jobs:lm:MODEL:waiting:CLIENT", "{NS}:clients"} | {
        "{NS}:client_of"
    }


def test_every_script_is_listed_and_registered() -> None:
    listed = first_column("Scripts")
    folder = files("glm4v.broker") / "scripts"
    written = {path.name.removesuffix(".lua") for path in folder.iterdir()} - {"prelude"}
    assert written == set(_SCRIPTS) == listed
