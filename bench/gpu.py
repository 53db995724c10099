"""`python -m bench.gpu`: GLM-4V-9B's geometry on this device, beside transformers, in 8 minutes.

One process, random weights. Parts that do not begin within the time are reported as not measured;
the report is written again after each part.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from bench.geometry import GLM_4V_9B
from bench.gpu_ours import OurLanguageModel, OurVisionModel, median_seconds, memory_taken
from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.errors import Glm4vError
from glm4v.process.extras import require

CONTEXT = 1611  # an image and a short question
BATCHES = (1, 32)
CHUNK = 512  # GLM4V_MAX_BATCHED_TOKENS
NOT_BEGUN = "not measured: out of time"


@dataclass(slots=True)
class Report:
    """What was measured so far."""

    device: Device
    command: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # what, ours, transformers

    def markdown(self) -> str:
        """The page."""
        details = [self.device.description, *self.device.details().values()]
        versions = f"torch {torch.__version__}, transformers {version('transformers')}"
        lines = [
            "# GLM-4V-9B's geometry on one accelerator, random weights",
            "",
            f"{self.device.name}: {', '.join(details)}. {versions}. {datetime.now(UTC):%Y-%m-%d}.",
            f"`{self.command}`. Context: {CONTEXT} tokens. Medians, with results on the host.",
            "transformers: GlmForCausalLM with its default cache, and SiglipVisionModel of the",
            "same widths, which has no adapter; both with SDPA, without compilation.",
            "",
            "| what | this project | transformers |",
            "|---|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in self.rows),
            "",
        ]
        return "\n".join(lines)


Part = Callable[[], list[str]]  # gives its figures, one for each of its rows


def measure(
    spec: ModelSpec, device: Device, repeats: int, context: int = CONTEXT
) -> Iterator[tuple[list[str], Part, Part]]:
    """Names of figures, and the parts that measure them here and in transformers."""
    from bench.gpu_transformers import TheirLanguageModel, TheirVisionModel

    def our_language() -> list[str]:
        taken: list[int] = []
        with memory_taken(device, taken):
            model = OurLanguageModel(spec, device, batch=max(BATCHES), context=context)
            whole = median_seconds(lambda: model.prefill(context), repeats)
            chunked = median_seconds(lambda: model.prefill(CHUNK), repeats)
            steps = [median_seconds(lambda n=n: model.decode(n), 4 * repeats) for n in BATCHES]  # type: ignore[misc]
        return [*_language(whole, chunked, steps, context), f"{taken[0] / 1e9:.1f} GB"]

    def their_language() -> list[str]:
        taken: list[int] = []
        with memory_taken(device, taken):
            model = TheirLanguageModel(spec, device, context=context)
            whole = median_seconds(model.prefill, repeats)
            steps = []
            for batch in BATCHES:
                model.prefill(batch)
                steps.append(median_seconds(model.decode, 4 * repeats))
        return [*_language(whole, None, steps, context), f"{taken[0] / 1e9:.1f} GB"]

    yield (
        [
            "prefill, at once",
            f"prefill, in chunks of {CHUNK}",
            *(f"decode, batch {batch}" for batch in BATCHES),
            "memory, cache for all included",
        ],
        our_language,
        their_language,
    )

    def vision(kind: Callable[[ModelSpec, Device], OurVisionModel | TheirVisionModel]) -> Part:
        def part() -> list[str]:
            taken: list[int] = []
            with memory_taken(device, taken):
                seconds = median_seconds(kind(spec, device).encode, repeats)
            return [f"{seconds * 1e3:.1f} ms an image", f"{taken[0] / 1e9:.1f} GB"]

        return part

    names = ["vision tower, one image", "memory of the tower"]
    yield names, vision(OurVisionModel), vision(TheirVisionModel)


def _language(
    whole: float, chunked: float | None, steps: list[float], context: int
) -> Iterator[str]:
    for seconds in (whole, chunked):
        yield (
            "–" if seconds is None else f"{seconds * 1e3:.1f} ms, {context / seconds:.0f} tokens/s"
        )
    for batch, seconds in zip(BATCHES, steps, strict=True):
        yield f"{seconds * 1e3:.2f} ms a step, {batch / seconds:.0f} tokens/s"


def run(
    report: Report,
    parts: Iterator[tuple[list[str], Part, Part]],
    *,
    until: float,
    keep: Callable[[str], object],
) -> None:
    """Measure part by part; `keep` gets the page after each. Times as `time.monotonic`."""
    for names, *sides in parts:
        columns = []
        for side in sides:
            columns.append(
                _measured(side, len(names))
                if time.monotonic() < until
                else [NOT_BEGUN] * len(names)
            )
            gc.collect()
            if report.device.torch_device.type != "cpu":
                torch.accelerator.empty_cache()
        report.rows += zip(names, *columns, strict=True)
        keep(report.markdown())


def _measured(part: Part, count: int) -> list[str]:
    try:
        return part()
    except torch.OutOfMemoryError:
        return ["out of memory"] * count


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="as GLM4V_DEVICE (default: cuda)")
    parser.add_argument("--dtype", default="bfloat16", help="as GLM4V_DTYPE (default: bfloat16)")
    parser.add_argument("--repeats", type=int, default=8, help="measured calls (default: 8)")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins later")
    parser.add_argument("--report", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    until = time.monotonic() + 60.0 * options.minutes
    try:
        require("transformers", "bench-gpu")
        device = open_device(DeviceOptions(options.device, options.dtype, is_bfloat16=True))
    except Glm4vError as error:
        sys.stderr.write(f"bench.gpu: {error}\n")
        return error.exit_code
    report = Report(device, f"python -m bench.gpu {' '.join(sys.argv[1:])}")
    parts = measure(GLM_4V_9B, device, options.repeats)
    run(report, parts, until=until, keep=options.report.write_text)
    sys.stdout.write(options.report.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
