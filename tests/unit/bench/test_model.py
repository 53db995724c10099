"""The random checkpoints of measurements."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import model
from bench.whole_model.checkpoint import vocabulary
from glm4v.checkpoint.vocabulary import read_ranks


@pytest.mark.parametrize(
    "write", [model.write_medium, model.write_spelling, partial(model.write_wide, layers=2)]
)
def test_a_gateway_can_read_the_vocabulary(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not whole ended every `glm4v bench profile` without --model."""
    special = []

    def keep(config: dict[str, Any], _: int, tokenizer: bytes, out: Path) -> None:
        special.append(config["pad_token_id"])
        (out / "tokenizer.model").write_bytes(tokenizer)

    monkeypatch.setattr(model, "write_checkpoint", keep)
    write(tmp_path)
    assert len(read_ranks(tmp_path / "tokenizer.model", special[0])) == special[0]


def test_a_vocabulary_has_every_token_before_the_special_ones() -> None:
    lines = vocabulary(151329).splitlines()
    assert len({line.split()[0] for line in lines}) == 151329
    assert [int(line.split()[1]) for line in lines] == list(range(151329))
