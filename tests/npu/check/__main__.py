"""`deploy/npu-check`: everything that only a real NPU can show, into one report."""

import argparse
import gc
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from glm4v.process.extras import extra

with extra("gateway,worker,npu"):
    import torch

    from glm4v.device import Device, DeviceOptions, open_device
    from glm4v.errors import Glm4vError
    from tests.npu.check import int8, memory, parallel, parts
    from tests.npu.check.collectives import bandwidth
    from tests.npu.check.report import Page


def main() -> int:
    """Run all parts; exit code 0 if all passed, 1 if one failed, 2 without a usable NPU."""
    parser = argparse.ArgumentParser(prog="deploy/npu-check", description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("npu-report.md"), metavar="FILE")
    parser.add_argument("--ranks", type=int, default=0, help="NPUs for HCCL (default: all)")
    parser.add_argument("--no-speed", action="store_true", help="leave the full geometry out")
    options = parser.parse_args()
    page = Page(options.report)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ranks = options.ranks or _visible()
        if ranks > 1:  # first, while this process has not opened a device
            page.run("HCCL", partial(bandwidth, ranks, folder))
            page.run("Golden cases, several ranks", partial(parallel.goldens, ranks, folder))
        try:
            check(page, folder, with_speed=not options.no_speed)
        except Glm4vError as error:
            sys.stderr.write(f"npu-check: {error}\n")
            return error.exit_code
    sys.stdout.write(options.report.read_text(encoding="utf-8"))
    return 1 if page.failed else 0


def check(page: Page, folder: Path, *, with_speed: bool) -> None:
    """All parts on one NPU; raises Glm4vError if there is none."""
    device = open_device(DeviceOptions("npu", "float16"))
    page.run("Versions", partial(parts.versions, device))
    page.run("Memory at rest", partial(memory.at_rest, device))
    for dtype in ("float16", "bfloat16"):
        try:
            device = open_device(DeviceOptions("npu", dtype))
        except Glm4vError as error:  # a 310P has no bfloat16
            page.run(f"{dtype}: not on this chip", partial(_said, str(error)))
            continue
        _check_numbers(page, device, folder / "micro", dtype)
        page.run(f"8-bit weights, {dtype}", partial(int8.products, dtype))
    if with_speed:
        page.run("Speed and memory", partial(parts.speed, device))
        gc.collect()
        torch.accelerator.empty_cache()
        page.run("Vision tower", partial(parts.vision_speed, device))


def _check_numbers(page: Page, device: Device, folder: Path, dtype: str) -> None:
    micro = parts.Micro(device, folder)
    page.run(f"Operators, {dtype}", partial(parts.operators, micro))
    page.run(f"Golden cases, {dtype}", partial(parts.goldens, micro))
    page.run(f"Capture and replay, {dtype}", partial(parts.replays, micro))


def _said(text: str) -> list[str]:
    return [text]


def _visible() -> int:
    """How many NPUs this process sees, asked of the driver's device files."""
    from glm4v.doctor.system import System, visible

    system = System()
    dies = len(system.device_files("davinci"))
    return visible(system.environment, "ASCEND_RT_VISIBLE_DEVICES", dies)


if __name__ == "__main__":
    sys.exit(main())
