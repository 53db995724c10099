"""Examines the machine for every process and device.

Whatever may hang, print or end its process runs in children, several at a time: the imports of the
processes, and each device that was found.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from glm4v.doctor import ascend, nvidia
from glm4v.doctor.children import import_error, probe_device
from glm4v.doctor.host import examine_cpu, examine_redis
from glm4v.doctor.model import examine_model
from glm4v.doctor.report import EVERY_PROCESS, GATEWAY, LANGUAGE, VISION, WORKERS, Missing, Report
from glm4v.doctor.system import System
from glm4v.errors import ConfigurationError

_MODULES = {
    GATEWAY: "gateway.__main__",
    VISION: "vision_worker.__main__",
    LANGUAGE: "lm_worker.__main__",
}
_AREAS = ("cpu", "torch", "model", "redis", nvidia.AREA, ascend.AREA)  # in the order of the screen
_NOT_SHOWN = ("torch", "torch_cuda", "name", "free_bytes", "weight_bytes", "language_bytes")
_AT_ONCE = 3  # children; each takes a core and 300 MB
_SETTINGS = "glm4v settings lists the variables"


def examine(
    system: System,
    *,
    find_import_error: Callable[[str], tuple[str, str] | None] = import_error,
    probe: Callable[[str], dict[str, str]] = probe_device,
) -> Report:
    """The report on this machine; takes some seconds, at most minutes if a driver hangs."""
    report = Report({area: [] for area in _AREAS})
    tensor_parallel = _check_settings(system, report)
    configured = system.environment.get("GLM4V_DEVICE", "auto")
    has_gpu = nvidia.examine(system, report, tensor_parallel)
    has_npu = ascend.examine(system, report, tensor_parallel)
    names = ["cpu", configured, *([nvidia.KIND] * has_gpu), *([ascend.KIND] * has_npu)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        probes = {name: pool.submit(probe, name) for name in dict.fromkeys(names)}
        imports = {
            process: pool.submit(find_import_error, module) for process, module in _MODULES.items()
        }
    for process, future in imports.items():
        if (error := future.result()) is not None:
            report.lack([Missing(*error, (process,))])
    probed = {name: opened.result() for name, opened in probes.items()}
    examine_cpu(system, report, probed["cpu"])
    examine_redis(system, report)
    if has_gpu:
        nvidia.check_build(report, probed[nvidia.KIND])
    for name, found in probed.items():
        _note_device(report, name, found, is_configured=name == configured)
    kinds = {name: found for name, found in probed.items() if name != "auto"}
    examine_model(system, report, kinds, tensor_parallel)
    _merge_equal(report)
    return report


def _check_settings(system: System, report: Report) -> int:
    """Note settings that no process accepts; the size of the tensor-parallel group."""
    try:
        from glm4v.process.environment import PROCESSES, read_settings
        from glm4v.process.settings import LmSettings
    except ModuleNotFoundError:
        return 1  # which the imports of the processes report
    model = {"GLM4V_MODEL": system.environment.get("GLM4V_MODEL", ".")}
    for process, kind in PROCESSES.items():
        try:
            settings = read_settings(kind, model)
        except ConfigurationError as error:
            report.lack([Missing(str(error), _SETTINGS, (process,))])
        else:
            if isinstance(settings, LmSettings):
                return settings.tensor_parallel
    return 1


def _note_device(report: Report, name: str, probed: dict[str, str], *, is_configured: bool) -> None:
    """Note what opening the device `name` showed."""
    opened = probed.get("name", "")
    kind = (opened or name).partition(":")[0]
    if is_configured and opened:
        report.default_device = opened
    if name == "auto":
        return  # one of the others
    report.devices[kind] = report.devices.get(kind, False) or bool(opened)
    texts = [text for key, text in probed.items() if key not in _NOT_SHOWN]
    if "free_bytes" in probed:
        texts.append(f"{int(probed['free_bytes']) / 1e9:.1f} GB free")
    area = {ascend.KIND: ascend.AREA}.get(kind, kind)
    if opened:
        report.add(area, ", ".join(texts))
    else:
        report.add(area, f"opening it: {probed['error']}")
        if not any(missing.device == kind for missing in report.missing):
            report.lack([Missing(f"it does not open: {probed['error']}", _SETTINGS, WORKERS, kind)])
    if not report.facts["torch"]:
        report.add("torch", probed.get("torch", ""))


def _merge_equal(report: Report) -> None:
    """Make one of what is missing for several processes in the same words."""
    merged: dict[tuple[str, str, str], Missing] = {}
    for each in report.missing:
        key = (each.what, each.fix, each.device)
        before = merged[key].processes if key in merged else ()
        processes = tuple(p for p in EVERY_PROCESS if p in (*before, *each.processes))
        merged[key] = Missing(each.what, each.fix, processes, each.device)
    report.missing = list(merged.values())
