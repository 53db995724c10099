"""The parts of the check that need one NPU."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from bench.geometry import GLM_4V_9B
from bench.gpu_ours import OurLanguageModel, OurVisionModel, median_seconds, memory_taken
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device
from glm4v.device.collectives import Collective
from glm4v.doctor.examination import examine
from glm4v.doctor.system import System
from lm_worker.model.layers import Shard
from tests.npu.check.comparison import Comparison
from tests.npu.check.report import Failed, table
from tests.parity.golden_plans import (
    WHOLE_MODEL,
    GoldenCase,
    Played,
    cases,
    load_model,
    open_golden,
    play,
    read_case,
)
from vision_worker.model import VisionModel

CONTEXT = 1611  # tokens: an image and a short question
BATCHES = (1, 8, 32)
REPEATS = 8
GOLDEN = ("case", "largest difference", "equal tokens")  # columns
_WHOLE = 10_000  # a chunk that holds every prompt
# Of logits and embeddings, all of order 1. The original is off by as much in these dtypes.
_NEAR = {torch.float16: 0.02, torch.bfloat16: 0.19, torch.float32: 1e-3}


class Micro:
    """The smallest checkpoint with its golden outputs, on a device."""

    def __init__(
        self,
        device: Device,
        folder: Path,
        shard: Shard = WHOLE_MODEL,
        collective: Collective | None = None,
    ) -> None:
        if not folder.exists():
            write_tiny(folder)
        self.device = device
        self._shard = shard
        self._collective = collective
        self.golden = open_golden("bundled")
        self._checkpoint = Checkpoint.open(folder)
        self.spec = self._checkpoint.spec
        self.cases = [read_case(self.golden, case, self.spec) for case in cases(self.golden)]

    def play(self, chunk: int) -> list[Played]:
        """All cases side by side, each step with the golden tokens."""
        with torch.inference_mode():
            model = load_model(self._checkpoint, self.device, self._shard, self._collective)
        return play(
            model,
            self.device,
            self.spec,
            self.cases,
            chunk=chunk,
            block_size=128,
            shard=self._shard,
        )

    def encode(self) -> dict[str, torch.Tensor]:
        """The embedding of each image, [image tokens, hidden] on the host."""
        weights = Weights(self._checkpoint, self.device.dtype, self.device.torch_device)
        with torch.inference_mode():
            model = VisionModel(self.spec, weights, self.device)
        named = [case for case in cases(self.golden) if f"{case}/pixel_values" in self.golden]
        embeddings = {}
        for case in named:
            pixels = torch.from_numpy(self.golden[f"{case}/pixel_values"])[None]
            pixels = pixels.to(self.device.dtype).to(self.device.torch_device)
            embeddings[case] = model.encode(pixels, lambda: None)[0].float().cpu()
        return embeddings


def versions(device: Device) -> Iterator[str]:
    """What the machine has."""
    report = examine(System())
    yield f"{device.name}: {device.description}, {device.free_memory_bytes() / 1e9:.1f} GB free"
    yield ""
    for area, lines in report.facts.items():
        yield from (f"- {area}: {line}" for line in lines)
    yield from (f"- missing: {each.what}; {each.fix}" for each in report.missing)


def operators(micro: Micro) -> Iterable[str]:
    """Each operator that the models call, against its reference."""
    comparison = Comparison()
    with comparison:
        micro.play(_WHOLE)
        micro.play(7)
        micro.encode()
    rows = [
        (name, str(found.calls), f"{found.share:.2f}", found.where)
        for name, found in sorted(comparison.differences.items())
    ]
    lines = list(table(("operator", "calls", "difference / tolerance", "largest in"), rows))
    if not rows or not all(found.is_within for found in comparison.differences.values()):
        raise Failed(lines or ["no fused operator was called"])
    return lines


def goldens(micro: Micro) -> Iterable[str]:
    """Logits, tokens and embeddings against those of the original implementation."""
    rows, is_wrong = language_rows(micro)
    near = _NEAR[micro.device.dtype]
    for case_name, embedding in micro.encode().items():
        expected = torch.from_numpy(micro.golden[f"{case_name}/vision_embeddings"])
        difference = float((embedding - expected).abs().max())
        is_wrong |= difference > near
        rows.append((f"{case_name}, image", f"{difference:.4f}", "–"))
    lines = [f"The limit of a difference is {near}.", "", *table(GOLDEN, rows)]
    if is_wrong:
        raise Failed(lines)
    return lines


def language_rows(micro: Micro) -> tuple[list[tuple[str, str, str]], bool]:
    """The rows of the language model's cases, and whether one of them is wrong."""
    near = _NEAR[micro.device.dtype]
    rows, is_wrong = [], False
    for chunk in (_WHOLE, 7):
        for case, played in zip(micro.cases, micro.play(chunk), strict=True):
            difference, equal, compared = _compare(case, played, near)
            is_wrong |= difference > near or equal < compared
            what = f"{case.name}, " + ("at once" if chunk == _WHOLE else f"chunks of {chunk}")
            rows.append((what, f"{difference:.4f}", f"{equal} of {compared}"))
    return rows, is_wrong


def _compare(case: GoldenCase, played: Played, near: float) -> tuple[float, int, int]:
    """The largest difference of logits; equal tokens, of those that rounding cannot change."""
    logits = played.logits.float().cpu()
    first = (logits[0] - case.last_logits).abs().max()
    others = (logits[1:].gather(1, case.top_ids) - case.top_logits).abs().max()
    best = torch.cat([case.last_logits.topk(2).values[None], case.top_logits[:-1, :2]])
    sure = [at for at, (a, b) in enumerate(best.tolist()) if a - b > 2 * near]
    equal = sum(played.tokens[at].token_id == case.tokens[at] for at in sure)
    return float(max(first, others)), equal, len(sure)


def replays(micro: Micro) -> Iterable[str]:
    """Decode steps from graphs against the same operators one by one."""
    from glm4v.device.npu import graphs

    if micro.device.description.startswith("Ascend310P"):
        return ["this chip has no graphs: every operator is launched"]
    captured = micro.play(_WHOLE)
    largest = graphs.MAX_BATCH
    graphs.MAX_BATCH = 0
    try:
        single = micro.play(_WHOLE)
    finally:
        graphs.MAX_BATCH = largest
    pairs = list(zip(captured, single, strict=True))
    differences = [float((a.logits - b.logits).abs().max()) for a, b in pairs]
    same = sum(
        x.token_id == y.token_id for a, b in pairs for x, y in zip(a.tokens, b.tokens, strict=True)
    )
    total = sum(len(a.tokens) for a in captured)
    line = f"{same} of {total} tokens equal, logits differ by {max(differences):.5f} at most"
    if same < total:
        raise Failed([line])
    return [line]


def speed(device: Device, spec: ModelSpec = GLM_4V_9B, context: int = CONTEXT) -> Iterator[str]:
    """Memory and speed in the geometry of GLM-4V-9B, with random weights."""
    taken: list[int] = []
    rows: list[tuple[str, str, str]] = []
    with memory_taken(device, taken):
        model = OurLanguageModel(spec, device, batch=max(BATCHES), context=context)
        for chunk in (context, 512):
            seconds = median_seconds(lambda n=chunk: model.prefill(n), REPEATS)  # type: ignore[misc]
            rows.append((f"prefill in chunks of {chunk}", *_rate(seconds, context)))
        for batch in BATCHES:
            seconds = median_seconds(lambda n=batch: model.decode(n), 4 * REPEATS)  # type: ignore[misc]
            rows.append((f"decode, batch {batch}", *_rate(seconds, batch)))
    yield from table((f"{context} tokens of context", "duration", "tokens/s"), rows)
    yield ""
    yield f"Weights, cache for {max(BATCHES)} sequences and workspace: {taken[0] / 1e9:.2f} GB."


def vision_speed(device: Device, spec: ModelSpec = GLM_4V_9B) -> Iterator[str]:
    """The same of the vision tower."""
    taken: list[int] = []
    with memory_taken(device, taken):
        seconds = median_seconds(OurVisionModel(spec, device).encode, REPEATS)
    yield f"One image: {seconds * 1e3:.1f} ms; weights and workspace: {taken[0] / 1e9:.2f} GB."


def _rate(seconds: float, tokens: int) -> tuple[str, str]:
    return f"{seconds * 1e3:.2f} ms", f"{tokens / seconds:.0f}"
