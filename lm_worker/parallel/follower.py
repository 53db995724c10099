"""Ranks above 0: execute the commands of rank 0 and exit with it."""

import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import ProcessGroup
from glm4v.process.early_stop import EarlyStop
from glm4v.process.environment import read_settings
from glm4v.process.exit import run_and_exit
from glm4v.process.settings import LmSettings
from glm4v.telemetry.log import start_log
from lm_worker.model.layers import Shard
from lm_worker.model.runner import NO_MEMORY, Runner, to_tensor
from lm_worker.parallel.commands import AddImage, CommandDecoder, DropImage, Heartbeat, Stop
from lm_worker.parallel.group import (
    LOAD_TIMEOUT_S,
    WATCH_INTERVAL_S,
    RankConfig,
    RankProcesses,
    host_from_env,
    init_group,
    rank_from_env,
)
from lm_worker.plan import StepPlan

log = logging.getLogger(__name__)


def follow(settings: LmSettings, config: RankConfig, loading: AbstractContextManager[None]) -> None:
    """Join the group, load this rank's weights, and execute commands until `Stop`.

    `loading` surrounds all but the commands.
    Raises if any rank dies or hangs: a group never runs incomplete.
    """
    with loading:
        checkpoint = Checkpoint.open(settings.model)
        device = open_device(
            DeviceOptions.from_settings(
                settings,
                is_bfloat16=checkpoint.is_bfloat16(vision=False),
                quantized_by=checkpoint.quantized_by,
                local_rank=config.local_rank,
                local_size=config.local_size,
                group_size=config.size,
            )
        )
        with device.errors(NO_MEMORY):
            group = init_group(config, device, settings.rank_timeout_s)
            cache = json.loads(group.receive())
            shard = Shard(config.rank, config.size)
            runner = Runner.load(checkpoint, device, shard, group, **cache)
            group.barrier("loaded", LOAD_TIMEOUT_S)
    log.info("rank %d of %d ready", config.rank, config.size)
    with device.errors(NO_MEMORY):
        run_commands(runner, group)
        group.close()


def run_commands(runner: Runner, group: ProcessGroup) -> None:
    """Execute commands until `Stop`."""
    commands = CommandDecoder()
    while True:
        match commands.decode(group.receive()):
            case StepPlan() as plan:
                runner.follow(plan)
            case AddImage(digest, embedding):
                runner.add_image(digest, to_tensor(embedding))
            case DropImage(digest):
                runner.drop_image(digest)
            case Heartbeat():
                pass
            case Stop():
                return


def main() -> None:
    """Run as a child (`RANK ADDRESS LOCAL_RANK LOCAL_SIZE` given), or as the environment says."""
    run_and_exit(_run)


def _run() -> None:
    settings = read_settings(LmSettings)
    start_log(settings.log_level)
    size = settings.tensor_parallel
    # Whoever stops the group signals all of it at once; rank 0 still drains and needs this rank.
    # While this one loads there is nothing to drain; rank 0 ends its children itself.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if len(sys.argv) == 5:
        _die_with_parent()
        rank, address, local_rank, local_size = sys.argv[1:]
        own = RankConfig(int(rank), size, address, int(local_rank), int(local_size))
        return follow(settings, own, nullcontext())
    config = rank_from_env(os.environ, size)
    if config is None:
        config = host_from_env(os.environ, size)
        assert config is not None, "a follower needs a rank"
        children = RankProcesses(size, config)
        threading.Thread(target=_exit_with, args=[children], name="ranks", daemon=True).start()
    return follow(settings, config, EarlyStop())


def _exit_with(children: RankProcesses) -> None:
    """Exit when another rank of this host fails: rank 0 notices that this one is gone."""

    def watch() -> None:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            children.check()

    run_and_exit(watch)


def _die_with_parent() -> None:
    """Exit when the first rank of this host does: it holds the other end of our standard input."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    main()
