"""Things learn the how-manieth of their kind they are."""

import pytest
import torch

from recipes.demo_model.network import Glance
from recipes.demo_model.scores import Scores
from recipes.demo_model.tally import Tally

KIND, OTHER = 3, 5
RED, BLUE, UNKNOWN = 0, 1, -1
NOTHING = (0, UNKNOWN, 0)
HEADS = 4


def labels(*things: tuple[int, int, int]) -> torch.Tensor:
    """Of a picture of 4 x 4 cells, or 2 x 2 rows, with one thing or nothing in each row."""
    cells = torch.tensor(NOTHING).repeat(4, 4, 1)
    for number, thing in enumerate(things):
        cells[2 * (number // 2), 2 * (number % 2) + 1] = torch.tensor(thing)
    return cells.reshape(1, 16, 3)


def learnt(shown: torch.Tensor) -> tuple[torch.Tensor, list[int], str]:
    """Attention of one head to the row before the picture and to it, and the numbers told."""
    torch.manual_seed(1)
    tally = Tally(8)
    picture = torch.randn(1, 6, 8)
    logits = torch.zeros(1, HEADS, 6, 6, requires_grad=True)
    optimizer = torch.optim.Adam([logits, *tally.parameters()], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        glance = Glance(torch.empty(0), torch.empty(0), picture, logits.softmax(-1))
        scores = Scores()
        tally.loss([glance, glance], shown, scores).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    told = tally.numbers(picture[0, 1:-1]).argmax(-1).tolist()
    assert torch.equal(logits[:, 0], logits[:, -1])
    assert not logits[:, 1:-1].any(), "other heads look where they like"
    return logits[0, 0, 1:-1].softmax(-1).detach(), told, scores.take()


def test_only_what_is_like_it_and_not_behind_it_counts() -> None:
    looks, told, said = learnt(labels((KIND, RED, 1), (OTHER, RED, 1), (KIND, RED, 1), NOTHING))
    assert told[:3] == [1, 1, 2]
    assert looks[2].tolist() == pytest.approx([6 / 8, 1 / 8, 0, 1 / 8, 0, 0], abs=0.02)
    assert looks[1].tolist() == pytest.approx([7 / 8, 0, 1 / 8, 0, 0, 0], abs=0.02)
    assert looks[3].tolist() == pytest.approx([1 / 6] * 6), "there is nothing"
    assert "tally 100.0%" in said


def test_a_kind_of_another_colour_or_without_a_middle_is_not_like_it() -> None:
    _, told, _ = learnt(labels((KIND, RED, 1), (KIND, BLUE, 1), (KIND, RED, 0), (KIND, RED, 1)))
    assert (told[0], told[1], told[3]) == (1, 1, 2)


def test_a_picture_of_nothing_teaches_nothing() -> None:
    looks, _, _ = learnt(labels())
    assert looks.tolist() == [pytest.approx([1 / 6] * 6)] * 4
