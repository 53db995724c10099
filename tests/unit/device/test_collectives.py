"""Two processes and their sums."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import Collective, ProcessGroup, SingleRank
from glm4v.errors import Unavailable
from tests.rank_processes import run_ranks


def reduce_and_gather(group: Collective, rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Rank r brings r + 1 everywhere; sums and joins, flattened one behind the other."""
    own = torch.full((2, 3), rank + 1, dtype=dtype)
    columns = own.T  # not contiguous, as slices of fused products are
    parts = [
        group.all_reduce(own.clone()),
        group.all_reduce(columns.clone(memory_format=torch.preserve_format)),
        group.all_gather(own, dim=0),
        group.all_gather(columns, dim=-1),
    ]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_ranks_sum_and_join(dtype: torch.dtype, tmp_path: Path) -> None:
    expected = torch.cat(
        [
            torch.full((12,), 3.0),
            torch.tensor([[1.0] * 3] * 2 + [[2.0] * 3] * 2).flatten(),
            torch.tensor([[1.0, 1.0, 2.0, 2.0]] * 3).flatten(),
        ]
    )
    folder = tmp_path / "a#b%20?c d"  # where TMPDIR may be
    folder.mkdir()
    for result in run_ranks(reduce_and_gather, 2, folder, dtype):
        assert torch.equal(result, expected.to(dtype))


def test_one_rank_is_its_own_sum() -> None:
    own = torch.arange(6.0).view(2, 3)
    assert torch.equal(SingleRank().all_reduce(own), own)
    assert torch.equal(SingleRank().all_gather(own, dim=1), own)


def come_late(group: Collective, rank: int, size: int) -> torch.Tensor:
    """What all came to."""
    return group.all_reduce(torch.ones(1))


@pytest.mark.parametrize("late", [0, 1])
def test_a_rank_may_come_later_than_a_call_may_take(late: int, tmp_path: Path) -> None:
    delays = [2.0 if rank == late else 0.0 for rank in range(2)]
    for result in run_ranks(come_late, 2, tmp_path, timeout_s=1.0, delays_s=delays):
        assert torch.equal(result, torch.tensor([2.0]))


def come_again(group: Collective, rank: int, size: int, address: str) -> torch.Tensor:
    """Whether the others notice that rank 1 came twice."""
    assert isinstance(group, ProcessGroup)
    group.check_restarts()
    group.all_reduce(torch.ones(1))
    if rank == 1:
        with pytest.raises(Unavailable, match="rank 1 joined twice; restart rank 0"):
            ProcessGroup("gloo", address, rank=rank, size=size)
    group.all_reduce(torch.ones(1))
    with pytest.raises(Unavailable, match="rank 1 was restarted"):
        group.check_restarts()
    return torch.ones(1)


def test_a_rank_that_was_started_again_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    assert run_ranks(come_again, 2, tmp_path, (tmp_path / "group").as_uri()) == [1, 1]


def lose_a_rank(group: Collective, rank: int, size: int) -> torch.Tensor:
    """Whether what a backend raises has our name."""
    assert isinstance(group, ProcessGroup)
    group.all_reduce(torch.ones(1))
    if rank == 1:  # rank 0 leaves
        calls: list[Callable[[], object]] = [
            lambda: group.all_reduce(torch.ones(1)),
            lambda: group.all_gather(torch.ones(1), 0),
            group.receive,
            lambda: group.send(b"nobody hears this"),
        ]
        for call in calls:
            with pytest.raises(Unavailable, match="a rank died or hangs: "):
                call()
    return torch.ones(1)


def test_every_call_says_that_a_rank_is_lost(tmp_path: Path) -> None:
    assert run_ranks(lose_a_rank, 2, tmp_path, timeout_s=5.0) == [1, 1]


def test_a_group_that_does_not_form_says_so(tmp_path: Path) -> None:
    device = open_device(DeviceOptions("cpu", "bfloat16"))
    address = (tmp_path / "group").as_uri()
    with pytest.raises(Unavailable, match=r"rank 0 of 2: no gloo group .* within 0\.2 s"):
        device.init_group(address, rank=0, size=2, timeout_s=0.2, join_timeout_s=0.2)
