"""Ranks above 0: execute the commands of rank 0 and exit with it."""

import json
import logging
import os
import signal
import sys
import threading

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import ProcessGroup
from glm4v.process.exit import run_and_exit
from glm4v.process.settings import LmSettings, read_settings
from glm4v.telemetry.log import start_log
from lm_worker.model.layers import Shard
from lm_worker.model.runner import NO_MEMORY, Runner, to_tensor
from lm_worker.parallel.commands import AddImage, CommandDecoder, DropImage, Heartbeat, Stop
from lm_worker.parallel.group import LOAD_TIMEOUT_S, RankConfig, init_group, rank_from_env
from lm_worker.plan import StepPlan

log = logging.getLogger(__name__)


def follow(settings: LmSettings, config: RankConfig) -> None:
    """Join the group, load this rank's weights, and execute commands until `Stop`.

    Raises if any rank dies or hangs: a group never runs incomplete.
    """
    checkpoint = Checkpoint.open(settings.model)
    device = open_device(
        DeviceOptions.from_settings(
            settings,
            is_bfloat16=checkpoint.is_bfloat16(vision=False),
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
    """Run as a child of rank 0 (`RANK ADDRESS` given), or with a rank from the environment."""
    run_and_exit(_run)


def _run() -> None:
    settings = read_settings(LmSettings)
    start_log(settings.log_level)
    if len(sys.argv) == 3:
        _die_with_parent()
        rank, size = int(sys.argv[1]), settings.tensor_parallel
        config: RankConfig | None = RankConfig(rank, size, sys.argv[2], rank, size)
    else:
        config = rank_from_env(os.environ, settings.tensor_parallel)
    assert config is not None, "a follower needs a rank"
    follow(settings, config)


def _die_with_parent() -> None:
    """Exit when rank 0 does: it holds the other end of our standard input."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    # Sent to the whole process group; rank 0 still drains and needs this rank.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
