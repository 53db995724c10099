"""Opens a device as a worker does, computes on it, and prints one JSON object about it.

`glm4v doctor` runs this in a process of its own: a broken driver may hang, end the process, or
print on standard output.
"""

import json
import os
import sys
from pathlib import Path

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.errors import Glm4vError


def probe(name: str) -> dict[str, str]:
    """Texts about the device `name`, or about why it cannot be used ("error")."""
    found = {"torch": torch.__version__, "torch_cuda": torch.version.cuda or ""}
    try:
        checkpoint = _checkpoint()
        device = open_device(_options(name, checkpoint))
        ones = torch.ones(2, 2, device=device.torch_device, dtype=device.dtype)
        if (ones @ ones).tolist() != [[2.0, 2.0], [2.0, 2.0]]:
            return {**found, "error": f"{device.name} computes wrong products"}
        return {
            **found,
            "name": device.name,
            "description": device.description,
            "free_bytes": str(device.free_memory_bytes()),
            "weight_bytes": str(device.weight_bytes),
            **_language_bytes(device, checkpoint),
            **device.details(),
        }
    except Glm4vError as error:
        return {**found, "error": str(error)}
    except Exception as error:
        text = next(iter(str(error).splitlines()), "")
        return {**found, "error": f"{type(error).__name__}: {text}"}


def _checkpoint() -> Checkpoint | None:
    """The one of GLM4V_MODEL; raises CheckpointError."""
    folder = os.environ.get("GLM4V_MODEL")
    return None if folder is None else Checkpoint.open(Path(folder))


def _language_bytes(device: Device, checkpoint: Checkpoint | None) -> dict[str, str]:
    if checkpoint is None:
        return {}
    return {"language_bytes": str(device.language_bytes(checkpoint))}


def _options(name: str, checkpoint: Checkpoint | None) -> DeviceOptions:
    """As a worker's, by the same variables."""
    return DeviceOptions(
        name,
        os.environ.get("GLM4V_DTYPE", "auto"),
        os.environ.get("GLM4V_WEIGHT_DTYPE", "auto"),
        is_bfloat16=checkpoint is not None and checkpoint.is_bfloat16(vision=False),
        quantized_by=checkpoint.quantized_by if checkpoint else "",
    )


def main() -> None:
    """Print the object; whatever else prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        json.dump(probe(sys.argv[1]), out)
        out.flush()
        os._exit(0)  # a device that hangs when it is closed, say


if __name__ == "__main__":
    main()
