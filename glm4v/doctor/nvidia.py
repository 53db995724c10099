"""NVIDIA GPUs: the driver, and whether PyTorch was built for them."""

from collections.abc import Mapping

from glm4v.doctor.report import LANGUAGE, WORKERS, Missing, Report
from glm4v.doctor.system import System, visible

KIND = "cuda"
AREA = "cuda"
_NVIDIA = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")  # class codes of graphics cards
_QUERY = ("--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader")


def examine(system: System, report: Report, tensor_parallel: int) -> bool:
    """Note facts and what is missing; whether there is a GPU, or was to be one."""
    files = system.device_files("nvidia")
    cards = system.pci_devices(_NVIDIA, _DISPLAYS)
    table = system.run("nvidia-smi", *_QUERY)
    wanted = system.environment.get("GLM4V_DEVICE", "").startswith(KIND)
    if not (files or cards or table or wanted):
        report.add(AREA, "no NVIDIA GPU")
        return False
    gpus = [line.split(", ") for line in (table or "").splitlines() if line.count(", ") == 3]
    for name, driver, total, used in gpus:
        report.add(AREA, f"{name}, driver {driver}, {used} of {total} used")
    if not gpus:
        report.lack(
            [
                Missing(
                    "nvidia-smi lists no GPU: no driver, a broken one, or a container without the "
                    "device",
                    "install the NVIDIA driver; for a container: docker run --gpus all …",
                    WORKERS,
                    KIND,
                )
            ]
        )
    count = visible(system.environment, "CUDA_VISIBLE_DEVICES", len(gpus))
    if gpus and count < tensor_parallel:
        report.lack(
            [
                Missing(
                    f"GLM4V_TENSOR_PARALLEL={tensor_parallel}, but {count} GPUs are visible",
                    "lower GLM4V_TENSOR_PARALLEL, or make more visible (CUDA_VISIBLE_DEVICES)",
                    (LANGUAGE,),
                    KIND,
                )
            ]
        )
    return True


def check_build(report: Report, probed: Mapping[str, str]) -> None:
    """Note that PyTorch was not built for GPUs; `probed` has "torch" and "torch_cuda"."""
    torch = probed.get("torch", "")
    if not torch or probed.get("torch_cuda"):
        return
    report.lack(
        [
            Missing(
                f"torch {torch} is built without CUDA",
                f"pip install --force-reinstall torch=={torch.partition('+')[0]}",
                WORKERS,
                KIND,
            )
        ]
    )
