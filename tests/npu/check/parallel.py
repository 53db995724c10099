"""Golden cases over a group of NPUs; a process of this module is one rank."""

import json
from collections.abc import Iterable
from pathlib import Path

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.device import Device
from glm4v.device.collectives import ProcessGroup
from glm4v.errors import ConfigurationError
from lm_worker.model.layers import Shard
from tests.npu.check import parts
from tests.npu.check.ranks import rank_main, run_ranks
from tests.npu.check.report import Failed, table

_MICRO = "micro of ranks"


def goldens(ranks: int, folder: Path, count: int = 100) -> Iterable[str]:
    """`count` golden cases over as many of `ranks` NPUs as the smallest checkpoint divides into."""
    write_tiny(folder / _MICRO)
    size = _largest(ranks, folder / _MICRO)
    run_ranks(__name__, size, folder, count)
    found = [json.loads((folder / f"golden{rank}.json").read_text()) for rank in range(size)]
    lines = [f"{size} ranks, float16; every rank has the whole logits.", ""]
    for rank, each in enumerate(found):
        if rank == 0 or each["rows"] != found[0]["rows"]:
            lines += [f"Rank {rank}:", "", *table(parts.GOLDEN, each["rows"]), ""]
    if any(each["is_wrong"] or each["rows"] != found[0]["rows"] for each in found):
        raise Failed(lines)
    return lines


def _largest(ranks: int, model: Path) -> int:
    spec = Checkpoint.open(model).spec

    def divides(size: int) -> bool:
        try:
            spec.check_ranks(size)
        except ConfigurationError:
            return False
        return True

    return next(size for size in range(ranks, 0, -1) if divides(size))


def _rank(device: Device, group: ProcessGroup, folder: Path, count: int) -> None:
    micro = parts.Micro(device, folder / _MICRO, Shard(group.rank, group.size), group)
    micro.cases = micro.cases[:count]
    rows, is_wrong = parts.language_rows(micro)
    text = json.dumps({"rows": rows, "is_wrong": is_wrong})
    (folder / f"golden{group.rank}.json").write_text(text)


if __name__ == "__main__":
    rank_main(_rank, "float16")
