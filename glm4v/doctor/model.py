"""The checkpoint of GLM4V_MODEL: whether it can be served, and whether its weights fit."""

from collections.abc import Mapping
from pathlib import Path

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.doctor.report import EVERY_PROCESS, LANGUAGE, VISION, Missing, Report
from glm4v.doctor.system import System
from glm4v.errors import CheckpointError, ConfigurationError

_MODEL = "GLM4V_MODEL"


def examine_model(
    system: System, report: Report, probes: Mapping[str, Mapping[str, str]], tensor_parallel: int
) -> None:
    """Note what is wrong with the checkpoint, and where its weights take more than is free.

    `probes` are what opening each kind of device showed.
    """
    folder = system.environment.get(_MODEL)
    if folder is None:
        return
    try:
        checkpoint = Checkpoint.open(Path(folder))
        checkpoint.spec.check_ranks(tensor_parallel)
    except (CheckpointError, ConfigurationError) as error:
        fix = f"correct {_MODEL} or GLM4V_TENSOR_PARALLEL; docs/compatibility.md lists the forms"
        report.lack([Missing(str(error), fix, EVERY_PROCESS)])
        return
    values = {
        VISION: checkpoint.values(vision=True),
        LANGUAGE: checkpoint.values(vision=False) // tensor_parallel,
    }
    counts = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in values.items())
    by = f", quantized by {checkpoint.quantized_by}" if checkpoint.quantized else ""
    report.add("model", f"{folder}{by}; million values per process: {counts}")
    for kind, probed in probes.items():
        if "free_bytes" not in probed:
            continue
        free, each = int(probed["free_bytes"]), int(probed["weight_bytes"])
        bytes_of = {
            VISION: values[VISION] * each,
            LANGUAGE: int(probed["language_bytes"]) // tensor_parallel,
        }
        for process, needed in bytes_of.items():
            if needed > free:
                what = f"{needed / 1e9:.1f} GB of weights, {free / 1e9:.1f} GB free"
                fix = "free memory, or take a device with more"
                if process == LANGUAGE:
                    fix += ", or raise GLM4V_TENSOR_PARALLEL"
                report.lack([Missing(what, fix, (process,), kind)])
