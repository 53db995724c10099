"""A rank above 0: executes what rank 0 commands, and ends with it."""

import json
import logging
import os
import signal
import sys
import threading

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import open_device
from glm4v.device.collectives import ProcessGroup
from glm4v.device.cpu.threads import use_threads
from glm4v.host.out_of_memory import out_of_memory_as_overloaded
from glm4v.process.exit import run_and_exit
from glm4v.process.settings import LmSettings, read_settings
from glm4v.telemetry.log import start_log
from lm_worker.model.layers import Shard
from lm_worker.model.runner import NO_MEMORY, Runner, to_tensor
from lm_worker.parallel.commands import AddImage, Beat, DropImage, Stop, decode
from lm_worker.parallel.group import LOAD_S, Place, join, rank_from_env
from lm_worker.plan import StepPlan

log = logging.getLogger(__name__)


def follow(settings: LmSettings, place: Place) -> None:
    """Join the group, load this rank's weights, and obey until told to stop.

    Raises when rank 0 or another rank dies or hangs: the group never half-runs.
    """
    use_threads(settings.threads)
    checkpoint = Checkpoint.open(settings.model)
    device = open_device(
        settings.device, settings.dtype, is_bfloat16=checkpoint.is_bfloat16(vision=False)
    )
    group = join(place, device.collective_backend, settings.rank_timeout_s)
    cache = json.loads(group.receive())
    shard = Shard(place.rank, place.size)
    runner = Runner.load(checkpoint, device, shard, group, **cache)
    group.meet("loaded", LOAD_S)
    log.info("rank %d of %d follows", place.rank, place.size)
    obey(runner, group)
    group.close()


def obey(runner: Runner, group: ProcessGroup) -> None:
    """Execute commands until `Stop`."""
    while True:
        match decode(group.receive()):
            case StepPlan() as plan:
                runner.execute(plan)
            case AddImage(digest, rows):
                runner.add_image(digest, to_tensor(rows))
            case DropImage(digest):
                runner.drop_image(digest)
            case Beat():
                pass
            case Stop():
                return


def main() -> None:
    """Follow: as a child of rank 0 (`RANK ADDRESS` given), or placed by the environment."""
    run_and_exit(_run)


def _run() -> None:
    settings = read_settings(LmSettings)
    start_log(settings.log_level)
    if len(sys.argv) == 3:
        _die_with_parent()
        place: Place | None = Place(int(sys.argv[1]), settings.tensor_parallel, sys.argv[2])
    else:
        place = rank_from_env(os.environ, settings.tensor_parallel)
    assert place is not None, "a follower is told its rank"
    with out_of_memory_as_overloaded(NO_MEMORY):
        follow(settings, place)


def _die_with_parent() -> None:
    """Rank 0 holds the other end of our input; when it is gone we go."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
    ):  # sent to all of a group: rank 0 still drains
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
