"""CPUs as the system grants them, on folders like those of /proc and /sys/fs/cgroup."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glm4v.device.cpu import threads
from glm4v.device.cpu.threads import use_threads
from glm4v.host.cpus import usable_cpus
from glm4v.local.environment import threads_each

CORES = 8


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


def cpus(root: Path, files: dict[str, str]) -> int:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cpus(root / "proc", root / "cgroup")


def test_without_a_quota_they_are_those_of_the_affinity(tmp_path: Path) -> None:
    assert cpus(tmp_path, {}) == CORES
    unlimited = {"proc/self/cgroup": "0::/ours\n", "cgroup/ours/cpu.max": "max 100000\n"}
    assert cpus(tmp_path, unlimited) == CORES


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),  # half a CPU over
        ("149000 100000", 1),
        ("220000 100000", 2),
        ("5000 10000", 1),
        ("1000 100000", 1),
        ("1600000 100000", CORES),
    ],
)
def test_a_quota_is_rounded_to_the_nearest_number_and_never_to_none(
    tmp_path: Path, quota: str, expected: int
) -> None:
    files = {"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": f"{quota}\n"}
    assert cpus(tmp_path, files) == expected


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pods/ours/main\n",
        "cgroup/pods/cpu.max": "300000 100000\n",
        "cgroup/pods/ours/cpu.max": "max 100000\n",
        "cgroup/pods/ours/main/cpu.max": "600000 100000\n",
        "cgroup/pods/others/cpu.max": "100000 100000\n",
    }
    assert cpus(tmp_path, files) == 3


def test_a_path_that_is_the_hosts_leaves_the_quota_at_the_root(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
        "cgroup/cpu.max": "400000 100000\n",
    }
    assert cpus(tmp_path, files) == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_the_first_version_of_cgroups_counts_too(tmp_path: Path, mount: str) -> None:
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n",
        f"cgroup/{mount}/cpu.cfs_quota_us": "-1\n",
        f"cgroup/{mount}/cpu.cfs_period_us": "100000\n",
        f"cgroup/{mount}/docker/x/cpu.cfs_quota_us": "250000\n",
        f"cgroup/{mount}/docker/x/cpu.cfs_period_us": "50000\n",
    }
    assert cpus(tmp_path, files) == 5


def test_the_workers_of_a_machine_share_out_what_is_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("glm4v.local.environment.usable_cpus", lambda: 3)
    assert [threads_each(workers) for workers in (1, 2, 4)] == [3, 1, 1]


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
def test_torch_takes_what_is_usable_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    use_threads(0)
    assert torch.get_num_threads() == 6
    monkeypatch.delenv("OMP_NUM_THREADS")
    use_threads(0)
    assert torch.get_num_threads() == 4
    use_threads(5)
    assert torch.get_num_threads() == 5
    monkeypatch.setattr(threads, "usable_cpus", lambda: 16)
    use_threads(0)
    assert torch.get_num_threads() == 5
