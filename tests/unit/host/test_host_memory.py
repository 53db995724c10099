"""Free memory as the system tells it, on folders like those of /proc and /sys/fs/cgroup."""

import os
import resource
from pathlib import Path

import pytest

from glm4v.device import DeviceOptions, open_device
from glm4v.errors import Unavailable
from glm4v.host.memory import free_host_memory_bytes

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "cgroup"


MEMINFO = {"proc/meminfo": f"MemTotal: 9999999 kB\nMemAvailable: {800 * 1024} kB\n"}


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO)) == 800 * MIB


def test_the_tightest_group_on_the_way_up_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pods/ours\n",
        "cgroup/pods/memory.max": f"{700 * MIB}",
        "cgroup/pods/memory.current": f"{500 * MIB}",
        "cgroup/pods/memory.stat": f"anon {450 * MIB}\ninactive_file {50 * MIB}\n",
        "cgroup/pods/ours/memory.max": "max\n",
        "cgroup/pods/ours/memory.current": f"{100 * MIB}",
    }
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO | files)) == 250 * MIB


def test_a_path_that_is_the_hosts_leaves_the_limit_at_the_root(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
        "cgroup/memory.max": f"{600 * MIB}",
        "cgroup/memory.current": f"{200 * MIB}",
    }
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO | files)) == 400 * MIB


def test_the_first_version_of_cgroups_counts_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
        "cgroup/memory/x/memory.limit_in_bytes": f"{300 * MIB}",
        "cgroup/memory/x/memory.usage_in_bytes": f"{200 * MIB}",
        "cgroup/memory/x/memory.stat": f"total_inactive_file {10 * MIB}\n",
    }
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO | files)) == 110 * MIB


def test_a_group_beyond_its_limit_has_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "cgroup/memory.max": f"{100 * MIB}",
        "cgroup/memory.current": f"{101 * MIB}",
    }
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO | files)) == 0


def test_a_system_that_does_not_tell_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="set GLM4V_KV_CACHE_BYTES"):
        free_host_memory_bytes(*write(tmp_path, {}))


@pytest.mark.needs_linux
def test_this_machine_tells() -> None:
    assert open_device(DeviceOptions("cpu", "float32")).free_memory_bytes() > 0


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max data size             {data:<20} unlimited            bytes
Max address space         {space:<20} unlimited            bytes
"""


@pytest.mark.parametrize(
    ("space", "data", "free"),
    [
        ("unlimited", "unlimited", 800 * MIB),
        (str(500 * MIB), "unlimited", 400 * MIB),  # ulimit -v
        ("unlimited", str(500 * MIB), 480 * MIB),  # ulimit -d
        (str(90 * MIB), "unlimited", 0),
    ],
)
def test_a_limit_of_the_process_counts(tmp_path: Path, space: str, data: str, free: int) -> None:
    pages = MIB // os.sysconf("SC_PAGE_SIZE")
    files = {
        "proc/self/statm": f"{100 * pages} 50 40 1 0 {20 * pages} 0\n",
        "proc/self/limits": LIMITS.format(space=space, data=data),
    }
    assert free_host_memory_bytes(*write(tmp_path, MEMINFO | files)) == free


def test_a_system_that_lends_no_more_than_it_has_counts(tmp_path: Path) -> None:
    meminfo = MEMINFO["proc/meminfo"] + "CommitLimit: 900000 kB\nCommitted_AS: 800000 kB\n"
    for mode, free in ((0, 800 * MIB), (1, 800 * MIB), (2, 100_000 * 1024)):
        files = {"proc/meminfo": meminfo, "proc/sys/vm/overcommit_memory": f"{mode}\n"}
        assert free_host_memory_bytes(*write(tmp_path, files)) == free


@pytest.mark.needs_linux
def test_the_limit_of_this_process_is_found() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 64 * MIB, before[1]))
    try:
        assert free_host_memory_bytes() <= 64 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
