"""The page that a comparison of servers leaves behind."""

from pathlib import Path

import pytest

from bench.peers import Load, Round
from bench.peers_report import medians, rows, write_page
from glm4v.errors import InvalidRequest

LOAD = Load(64, 128, 0, same_image=False, seed=1)
RESULTS = [
    Round("ours", 4, 100.0, 0.2, 0.01),
    Round("theirs", 4, 50.0, 0.4, 0.01),
    Round("ours", 4, 90.0, 0.1, 0.01),
    Round("theirs", 4, 90.0, 0.5, 0.01),
    Round("ours", 4, 30.0, 0.3, 0.01),
    Round("theirs", 4, 60.0, 0.6, 0.01),
]


def test_ratios_are_of_rounds_side_by_side() -> None:
    # Tokens/s: 2, 1 and 0.5; the medians of either server would give 90 / 60.
    same = (1.0, 1.0, 1.0)
    assert medians(RESULTS, 4) == {
        "ours": (90.0, 0.2, 0.01, (same, same, same)),
        "theirs": (60.0, 0.5, 0.01, ((1.0, 0.5, 2.0), (0.5, 0.2, 0.5), same)),
    }


def test_a_row_has_each_ratio_with_its_spread() -> None:
    *_, theirs = rows(RESULTS)
    assert theirs[5:] == ("1.00 (0.50 to 2.00)", "0.50 (0.20 to 0.50)", "1.00 (1.00 to 1.00)")


def test_page_has_every_row_the_command_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/glm4v", "bench", "peers", "--peer", "a b=c"])
    write_page(RESULTS, LOAD, 3, tmp_path / "found")
    page = (tmp_path / "found.md").read_text()
    for row in rows(RESULTS):
        assert f"| {' | '.join(row)} |" in page
    assert "glm4v bench peers --peer 'a b=c'" in page
    assert "/somewhere" not in page
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        write_page(RESULTS, LOAD, 3, tmp_path / "nowhere" / "found")


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (LOAD, "64 prompt + 128 answer tokens"),
        (Load(8, 2, 448, same_image=False, seed=1), "a new 448 px image in each request"),
        (Load(8, 2, 448, same_image=True, seed=1), "the same 448 px image in each request"),
    ],
)
def test_a_load_says_what_it_is(load: Load, name: str) -> None:
    assert load.name.endswith(name)
