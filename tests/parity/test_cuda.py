"""The code for GPUs, on the CPU, against the outputs of the original implementation.

Decode steps run as on a GPU: padded, from tensors that keep their places. Instead of a graph, the
recorded function is called again.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.weights import Weights
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import Collective, SingleRank
from glm4v.device.cuda import captured_decoder
from glm4v.device.cuda.captured_decoder import CapturedDecoder
from glm4v.device.cuda.device import CudaDevice
from glm4v.device.cuda.graph import RepeatedCalls
from glm4v.images import ImageLimits
from lm_worker.model.layers import Shard
from tests.parity import engine_runs
from tests.parity.golden_plans import GoldenCase, cases, load_model, open_golden, play, read_case
from tests.parity.test_language import TOLERANCE, WHOLE, compare
from tests.rank_processes import run_ranks
from vision_worker.model import VisionModel
from vision_worker.preprocess import pixel_values

CPU = torch.device("cpu")


class Model:
    """A checkpoint as a GPU would run it, with its golden outputs."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        golden_name: str = "bundled",
        on: torch.device = CPU,
    ) -> None:
        checkpoint = Checkpoint.open(folder)
        golden = open_golden(golden_name)
        self.spec = checkpoint.spec
        self.device = CudaDevice(on, dtype)
        self.model = load_model(checkpoint, self.device)
        self.cases = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]

    def compare(self, played: list[GoldenCase], *, chunk: int, block_size: int = 16) -> None:
        """Run cases side by side; logits and tokens are those of the original."""
        ended = play(self.model, self.device, self.spec, played, chunk=chunk, block_size=block_size)
        for case, one in zip(played, ended, strict=True):
            compare(case, one)


@pytest.fixture(scope="module")
def micro(checkpoint_dir: Callable[[str], Path]) -> Model:
    return Model(checkpoint_dir("micro-glm4v"))


@pytest.fixture(
    scope="module",
    params=["bundled", pytest.param("tiny-glm4v", marks=pytest.mark.needs_reference)],
)
def model(request: pytest.FixtureRequest, checkpoint_dir: Callable[[str], Path]) -> Model:
    name = "micro-glm4v" if request.param == "bundled" else request.param
    return Model(checkpoint_dir(name), golden_name=request.param)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each replay."""
    sizes: list[int] = []
    replay = RepeatedCalls.replay

    def counted(recording: RepeatedCalls) -> torch.Tensor:
        output = replay(recording)
        sizes.append(len(output))
        return output

    monkeypatch.setattr(RepeatedCalls, "replay", counted)
    return sizes


def test_each_case_alone(model: Model, replays: list[int]) -> None:
    for case in model.cases:
        replays.clear()
        model.compare([case], chunk=WHOLE)
        assert replays == [1] * len(case.tokens)


@pytest.mark.parametrize(("chunk", "block_size"), [(1, 16), (3, 2), (7, 16), (WHOLE, 5)])
def test_all_cases_together(micro: Model, replays: list[int], chunk: int, block_size: int) -> None:
    micro.compare(micro.cases, chunk=chunk, block_size=block_size)
    assert len(replays) >= 20
    assert all(size & (size - 1) == 0 for size in replays)  # padded to a power of two


def test_rows_of_an_earlier_step_do_not_show(micro: Model, replays: list[int]) -> None:
    """Five sequences, then the three that are left, in the same eight rows or fewer."""
    several = (micro.cases * 5)[:5]
    ended = play(micro.model, micro.device, micro.spec, several, chunk=WHOLE, block_size=16)
    assert 8 in replays
    for case, one in zip(several, ended, strict=True):
        compare(case, one)


def test_more_sequences_than_a_graph_takes(
    micro: Model, replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_decoder, "LARGEST_BATCH", 1)
    micro.compare(micro.cases[:2] * 2, chunk=WHOLE)
    assert set(replays) <= {1}


def test_progress_counts_each_layer_once(micro: Model) -> None:
    before = micro.model.layers_done
    case = micro.cases[0]
    micro.compare([case], chunk=WHOLE)
    assert micro.model.layers_done - before == micro.spec.layers * (1 + len(case.tokens))


def test_a_recording_that_ignored_new_inputs_would_fail(
    micro: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph would whose inputs moved: each replay repeats the first one's output."""

    class Frozen(RepeatedCalls):
        def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
            first = compute()
            super().__init__(lambda: first)

    assert isinstance(micro.model.decoder, CapturedDecoder)
    monkeypatch.setattr(micro.model.decoder, "_record", Frozen)
    with pytest.raises(AssertionError):
        micro.compare(micro.cases[:1], chunk=WHOLE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(
    checkpoint_dir: Callable[[str], Path], dtype: torch.dtype
) -> None:
    model = Model(checkpoint_dir("micro-glm4v"), dtype)
    case = model.cases[0]
    (ended,) = play(model.model, model.device, model.spec, [case], chunk=WHOLE, block_size=16)
    got, expected = ended.logits[0].float(), case.last_logits
    assert ended.logits.dtype == dtype
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_the_vision_tower(checkpoint_dir: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    device, golden = CudaDevice(CPU, torch.float32), open_golden("bundled")
    model = VisionModel(checkpoint.spec, Weights(checkpoint, device.dtype, CPU), device)
    names = sorted({key.split("/")[0] for key in golden if key.endswith("/image_file")})
    assert names
    for name in names:
        file = golden[f"files/{golden[f'{name}/image_file']}"].tobytes()
        pixels = pixel_values(file, checkpoint.spec.vision.image_size, ImageLimits())
        rows = model.encode(torch.from_numpy(pixels)[None], lambda: None)[0]
        expected = torch.from_numpy(golden[f"{name}/vision_embeddings"])
        torch.testing.assert_close(rows, expected, atol=TOLERANCE, rtol=0)


def play_all(group: Collective, rank: int, size: int, folder: Path) -> torch.Tensor:
    """Logits [cases, 21, vocabulary] of all cases on one of several ranks."""
    checkpoint, golden = Checkpoint.open(folder), open_golden("bundled")
    device, shard = CudaDevice(CPU, torch.float32), Shard(rank, size)
    model = load_model(checkpoint, device, shard, group)
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    played = play(model, device, checkpoint.spec, every, chunk=WHOLE, block_size=16, shard=shard)
    return torch.stack([case.logits for case in played])


def test_two_ranks(checkpoint_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """Their sums are inside what is recorded; gloo adds them here, NCCL on GPUs."""
    folder = checkpoint_dir("micro-glm4v")
    alone = play_all(SingleRank(), 0, 1, folder)
    for logits in run_ranks(play_all, 2, tmp_path, folder):
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=0)


async def test_an_engine_with_a_cache_that_is_too_small(
    checkpoint_dir: Callable[[str], Path], replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences join, leave and are preempted between replays."""
    folder, golden = checkpoint_dir("micro-glm4v"), open_golden("bundled")
    monkeypatch.setattr(engine_runs, "open_device", lambda _: CudaDevice(CPU, torch.float32))
    requests = engine_runs.mixed(golden, Checkpoint.open(folder).spec.boi_id, 24)
    async with engine_runs.running(folder, engine_runs.Layout(block_size=4, blocks=40)) as run:
        answers = await run.answer(requests)
        assert run.scheduler.counts.preemptions > 0
    assert len(set(replays)) > 1
    for number in range(0, len(requests), 2):  # the greedy ones
        case = cases(golden)[number % len(cases(golden))]
        assert answers[f"{number}:{case}"] == golden[f"{case}/greedy_tokens"].tolist()


@pytest.mark.needs_cuda
@pytest.mark.parametrize("chunk", [1, 7, WHOLE])
def test_graphs_on_a_gpu(checkpoint_dir: Callable[[str], Path], chunk: int) -> None:
    device = open_device(DeviceOptions("cuda", "float32"))
    model = Model(checkpoint_dir("micro-glm4v"), on=device.torch_device)
    model.compare(model.cases, chunk=chunk)
