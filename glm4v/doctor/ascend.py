"""Ascend NPUs: driver, CANN, torch_npu. Nothing of it is loaded into this process.

Sources: the output of `npu-smi info` 23 to 25; the layout of CANN 8 and 9, and what their
set_env.sh export.
"""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from glm4v.doctor.report import LANGUAGE, WORKERS, Missing, Report
from glm4v.doctor.system import System, visible

KIND = "npu"
AREA = "ascend"
_HUAWEI = "0x19e5"
_ACCELERATOR = ("0x1200",)  # class code of processing accelerators
_CANN = (
    "usr/local/Ascend/ascend-toolkit/latest",
    "usr/local/Ascend/cann",
    "usr/local/Ascend/latest",
)
_ATB = "/usr/local/Ascend/nnal/atb/set_env.sh"
_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"

# | 0     910B3               | OK            | 95.6        45                0    / 0             |
# | 0                         | 0000:C1:00.0  | 0           0    / 0          3161 / 65536         |
_CHIP = re.compile(r"^\|\s*\d+\s+(?P<name>\S+)\s*\|\s*(?P<health>[A-Za-z]+)\s*\|")
_MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)\s*\|\s*$")
_TOOL_VERSION = re.compile(r"Version:\s*(\S+)")


def examine(system: System, report: Report, tensor_parallel: int) -> bool:
    """Note facts and what is missing; whether there is an NPU, or was to be one."""
    dies = system.device_files("davinci")
    cards = system.pci_devices(_HUAWEI, _ACCELERATOR)
    table = system.run("npu-smi", "info")
    wanted = system.environment.get("GLM4V_DEVICE", "").startswith(KIND)
    if not (dies or cards or table or wanted):
        report.add(AREA, "no NPU")
        return False
    chips = parse_chips(table or "")
    report.lack(_driver(system, report, dies, table, chips))
    report.lack(_cann(system, report, chips))
    report.lack(_torch_npu(report))
    count = visible(system.environment, _VISIBLE, len(dies))
    report.add(AREA, f"{count} of {len(dies)} dies visible")
    if dies and count < tensor_parallel:
        report.lack(
            [
                Missing(
                    f"GLM4V_TENSOR_PARALLEL={tensor_parallel}, but {count} dies are visible",
                    f"lower GLM4V_TENSOR_PARALLEL, or make more dies visible ({_VISIBLE})",
                    (LANGUAGE,),
                    KIND,
                )
            ]
        )
    return True


def parse_chips(table: str) -> list[tuple[str, str, int, int]]:
    """(name, health, used MB, MB) of each chip in the output of `npu-smi info`."""
    chips: list[tuple[str, str, int, int]] = []
    for line in table.splitlines():
        if chip := _CHIP.match(line):
            chips.append((chip["name"], chip["health"], 0, 0))
        elif chips and not chips[-1][3] and (memory := _MEMORY.search(line)):
            chips[-1] = (*chips[-1][:2], int(memory[1]), int(memory[2]))
    return chips


def _driver(
    system: System,
    report: Report,
    dies: list[Path],
    table: str | None,
    chips: list[tuple[str, str, int, int]],
) -> list[Missing]:
    found = system.version_in((system.path("usr/local/Ascend/driver"), "version.info"))
    if not found and (match := _TOOL_VERSION.search(table or "")):
        found = match[1]
    report.add(AREA, f"driver {found or 'unknown'}")
    for name, health, used, total in chips:
        report.add(AREA, f"{name}, {health}, {used} of {total} MB used")
    missing = [
        Missing(f"an NPU reports {health}", "npu-smi info -t health -i 0", WORKERS, KIND)
        for _, health, _, _ in chips
        if health.upper() != "OK"
    ][:1]
    if not dies:
        missing.append(
            Missing(
                "no device file /dev/davinci0: no driver, or a container without the device",
                "install the driver and firmware of the card (npu-smi info then lists it); for a "
                "container: docker run --device /dev/davinci0 --device /dev/davinci_manager "
                "--device /dev/devmm_svm --device /dev/hisi_hdc -v /usr/local/Ascend/driver:"
                "/usr/local/Ascend/driver:ro …",
                WORKERS,
                KIND,
            )
        )
    elif not all(os.access(die, os.R_OK | os.W_OK) for die in dies):
        missing.append(
            Missing(
                f"{dies[0]} may not be opened by this user",
                'sudo usermod -aG HwHiAiUser "$USER", then log in again',
                WORKERS,
                KIND,
            )
        )
    return missing


def _cann(system: System, report: Report, chips: list[tuple[str, str, int, int]]) -> list[Missing]:
    home = system.environment.get("ASCEND_HOME_PATH")
    if home is None:
        return [_no_cann(system, report)]
    folder = Path(home)
    if not folder.is_dir():
        fix = "unset ASCEND_HOME_PATH, then source set_env.sh of the CANN that is installed"
        return [Missing(f"ASCEND_HOME_PATH={home} does not exist", fix, WORKERS, KIND)]
    found = system.version_in(
        (folder, "ascend_*_install.info"),
        (folder, "*-linux/ascend_*_install.info"),
        (folder, "version.info"),
        (folder, "*/version.info"),
    )
    report.add(AREA, f"CANN {found or 'of unknown version'} in {home}")
    missing = []
    has_hccl = any(any(folder.glob(place)) for place in ("lib64/libhccl.so", "*/lib64/libhccl.so"))
    report.add(AREA, f"HCCL {'found' if has_hccl else 'not found'}")
    if not has_hccl:
        fix = "install the whole CANN toolkit; torch_npu is linked with libhccl.so"
        missing.append(Missing(f"no libhccl.so in {home}", fix, WORKERS, KIND))
    is_310p = any(name.startswith("310P") for name, _, _, _ in chips)
    if is_310p and "ATB_HOME_PATH" not in system.environment:
        what = "the ATB operators of NNAL, which attention on a 310P needs, are not set up"
        missing.append(Missing(what, f"source {_ATB}", WORKERS, KIND))
    return missing


def _no_cann(system: System, report: Report) -> Missing:
    installed = [place for place in _CANN if system.path(place).exists()]
    if not installed:
        report.add(AREA, "no CANN")
        fix = "install the CANN toolkit, the kernels of the chip and NNAL, or use a CANN image"
        return Missing("CANN is not installed", fix, WORKERS, KIND)
    report.add(AREA, f"CANN in /{installed[0]}, not set up")
    folder = Path(installed[0])
    folder = folder.parent if folder.name == "latest" else folder
    return Missing(
        "CANN is not set up in this shell (ASCEND_HOME_PATH is not set)",
        f"source /{folder}/set_env.sh",
        WORKERS,
        KIND,
    )


def _torch_npu(report: Report) -> list[Missing]:
    install = "pip install 'glm4v-serve[worker,npu]'"
    try:
        own = version("torch_npu")
    except PackageNotFoundError:
        report.add(AREA, "no torch_npu")
        return [Missing("torch_npu is not installed", install, WORKERS, KIND)]
    report.add(AREA, f"torch_npu {own}")
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return []  # which the workers report
    release = torch.partition("+")[0]
    if release.split(".")[:2] != own.split(".")[:2]:
        return [
            Missing(
                f"torch_npu {own} does not fit torch {torch}",
                f"pip install 'torch_npu=={'.'.join(release.split('.')[:2])}.*'",
                WORKERS,
                KIND,
            )
        ]
    return []
