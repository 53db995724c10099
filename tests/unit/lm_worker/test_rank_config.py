"""Ranks that are started from outside, as by torchrun."""

import pytest

from glm4v.errors import ConfigurationError
from lm_worker.parallel.group import RankConfig, host_from_env, rank_from_env

GROUP = {"WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def test_without_variables_there_is_no_rank() -> None:
    assert rank_from_env({"LOCAL_RANK": "1"}, 4) is None


def test_a_rank_alone_on_its_host_takes_the_first_device_and_all_memory() -> None:
    expected = RankConfig(3, 4, "tcp://10.0.0.1:29500", local_rank=0, local_size=1)
    assert rank_from_env({**GROUP, "RANK": "3"}, 4) == expected


def test_ranks_on_one_host_say_which_device_is_theirs() -> None:
    local = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    expected = RankConfig(3, 4, "tcp://10.0.0.1:29500", local_rank=1, local_size=2)
    assert rank_from_env({**GROUP, **local, "RANK": "3"}, 4) == expected


def test_the_port_has_a_default() -> None:
    expected = RankConfig(3, 4, "tcp://10.0.0.1:20030", local_rank=0, local_size=1)
    assert rank_from_env({**GROUP, "MASTER_PORT": "", "RANK": "3"}, 4) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({"RANK": "one"}, "must be numbers"),
        ({"LOCAL_RANK": "one"}, "must be numbers"),
        ({"RANK": "4"}, "RANK=4 WORLD_SIZE=4 do not match"),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK=2 LOCAL_WORLD_SIZE=2 do not"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8 do not match"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rank_from_env({**GROUP, "RANK": "1", **changes}, 4)


HOSTS = {"NNODES": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def test_a_host_of_several_starts_with_the_first_of_its_ranks() -> None:
    expected = RankConfig(4, 8, "tcp://10.0.0.1:29500", local_rank=0, local_size=4)
    assert host_from_env({**HOSTS, "NODE_RANK": "1"}, 8) == expected
    assert host_from_env({"NODE_RANK": "1"}, 8) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({"NODE_RANK": ""}, "but not NODE_RANK"),
        ({"NODE_RANK": "one"}, "must be numbers"),
        ({"NODE_RANK": "2"}, "NODE_RANK=2 do not match GLM4V_TENSOR_PARALLEL=8"),
        ({"NNODES": "3"}, "NNODES=3 NODE_RANK=1 do not match"),
    ],
)
def test_hosts_that_contradict_each_other_are_refused(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        host_from_env({**HOSTS, "NODE_RANK": "1", **changes}, 8)
