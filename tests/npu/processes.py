"""The system's processes with their workers on pretend NPUs, and a folder of faults for them."""

import os
from pathlib import Path

from tests.e2e.fleet import ROOT, Fleet

SITE = Path(__file__).parent / "site"
DIES = 4
# Of this process, which tools/test-npu.sh set.
_INHERITED = ("LD_LIBRARY_PATH", "PRETEND_NPU", "ASCEND_LAUNCH_BLOCKING")
KV_CACHE_BYTES = 96 * 2**20


class NpuFleet(Fleet):
    """A fleet whose workers each have `DIES` pretend NPUs and the model `model`.

    A worker's name ends with its number of ranks, and a letter where there are several:
    "lm_worker-2", "lm_worker-1a". With "c" it takes memory for every tensor anew. `folder` takes
    the faults and the operators that ran. Steps are emulated: a lease has to last longer than one
    on a busy machine.
    """

    def __init__(self, model: Path, folder: Path, *, lease_s: int = 30) -> None:
        inherited = {name: os.environ[name] for name in _INHERITED}
        path = os.pathsep.join([str(SITE), str(ROOT)])
        common = {"PYTHONPATH": path, "GLM4V_LEASE_S": str(lease_s)}
        super().__init__(model, environment=inherited | common)
        self._faults = folder / "faults"
        self._operators = folder / "operators"
        for each in (self._faults, self._operators):
            each.mkdir()

    def environment(self, name: str) -> dict[str, str]:
        """Variables of a service."""
        ranks = name.partition("-")[2].rstrip("abc") or "1"
        operators = self._operators / name
        operators.mkdir(exist_ok=True)
        return super().environment(name) | {
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "PRETEND_NPU_DEVICES": str(DIES),
            "PRETEND_NPU_FAULT": str(self._faults / name),
            "PRETEND_NPU_CALLS": str(operators),
            "GLM4V_DTYPE": "float16",
            **({} if name.startswith("gateway") else {"GLM4V_DEVICE": "npu"}),
            # Or its allocator would hardly ever ask the device for memory.
            **({"PYTORCH_NO_NPU_MEMORY_CACHING": "1"} if name.endswith("c") else {}),
            **(
                {
                    "GLM4V_TENSOR_PARALLEL": ranks,
                    "GLM4V_KV_CACHE_BYTES": str(KV_CACHE_BYTES),
                    "GLM4V_RANK_TIMEOUT_S": "60",
                }
                if name.startswith("lm_worker")
                else {}
            ),
        }

    def operators(self, name: str) -> list[set[str]]:
        """Names of the operators that ran in each process of a service."""
        files = (self._operators / name).iterdir()
        return [set(file.read_text(encoding="utf-8").split()) for file in files]

    def break_device(self, name: str, fault: str) -> None:
        """Give a running worker's device a fault of pretend/runtime.c."""
        (self._faults / name).write_text(fault, encoding="utf-8")

    def mend_device(self, name: str) -> None:
        """As if its next process found a device that works."""
        (self._faults / name).unlink()
