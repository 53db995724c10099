"""What goes wrong in the kernels comes out as an exception: nothing is read or written beyond what
is there, and a process without memory goes on.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.device import AttentionSegment, DecoderShape, LayerWeights
from glm4v.device.collectives import SingleRank
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import (
    KernelAttention,
    KernelDecoder,
    KernelLinear,
    Kernels,
    attend_all,
    open_kernels,
)
from glm4v.device.cpu.kernels.compiler import SOURCE, find_compiler

pytestmark = pytest.mark.needs_compiler

CHECK = Path(__file__).with_name("thread_pool_check.cpp")


def test_an_exception_in_any_thread_comes_out_when_all_have_left(tmp_path: Path) -> None:
    check = str(tmp_path / "check")
    command = [find_compiler(), "-std=c++17", "-O1", "-pthread", "-I", str(SOURCE)]
    subprocess.run(
        [*command, str(CHECK), str(SOURCE / "thread_pool.cpp"), "-o", check], check=True, timeout=60
    )
    run = subprocess.run([check], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "3000 jobs, 0 wrong\n"


# glibc reserves more than it was asked for, unless it is told.
EXACT_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**17)}

# The helpers' memory for the second call is not there: it is larger than what they keep. The
# caller's is, from a call without helpers. Helpers may come too late to take part, so often.
WITHOUT_MEMORY = """
import resource, sys, torch
from glm4v.device.cpu.kernels import attend_all, open_kernels

def used():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()

kernels = open_kernels()
heads = torch.randn(1, 14, 3, 8, 20000)
kernels.set_num_threads(1)
right = attend_all(kernels, heads)
kernels.set_num_threads(4)
small = torch.randn(1, 40, 3, 8, 8)
for _ in range(50):
    attend_all(kernels, small)  # helpers are there
_, hard = resource.getrlimit(resource.RLIMIT_AS)
failures = 0
for _ in range(200):
    wanted = torch.empty(right.shape)  # the result's memory, which the next call finds again
    del wanted
    resource.setrlimit(resource.RLIMIT_AS, (used() + right.nbytes + 2**16, hard))
    try:
        attend_all(kernels, heads)
    except MemoryError as error:
        assert str(error) == "the CPU kernels ran out of memory"
        failures += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if failures == 3:
        break
assert failures == 3, failures
assert torch.equal(attend_all(kernels, heads), right)
print("went on")
"""


@pytest.mark.needs_linux
def test_a_process_without_memory_for_its_helpers_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY],
        env={**os.environ, **EXACT_MALLOC},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "went on\n"), run.stderr


# Threads are refused where memory for their stacks is: the work is done by those that there are.
WITHOUT_THREADS = """
import resource, torch
from glm4v.device.cpu.kernels import KernelLinear, open_kernels

kernels = open_kernels()
kernels.set_num_threads(1)
linear, x = KernelLinear(kernels, torch.randn(200, 300), None, bits=32), torch.randn(40, 300)
right = linear(x)
kernels.set_num_threads(64)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, resource.RLIM_INFINITY))
assert torch.equal(linear(x), right)
print("went on")
"""


@pytest.mark.needs_linux
def test_a_process_that_gets_no_threads_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "went on\n"), run.stderr


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = open_kernels()
    assert found is not None
    return found


@pytest.fixture
def attention(kernels: Kernels) -> KernelAttention:
    """A cache of 4 blocks of 8 rows for 2 layers, 2 heads of 12 values."""
    attention = KernelAttention(kernels)
    attention.allocate(layers=2, blocks=4, block_size=8, kv_heads=2, head_dim=12)
    return attention


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        (AttentionSegment(9, 0, (0,)), "tokens 0 to 9 of 8"),
        (AttentionSegment(1, 16, (0, 1)), "tokens 16 to 17 of 16"),
        (AttentionSegment(0, 0, (0,)), "tokens 0 to 0 of 8"),
        (AttentionSegment(1, -1, (0,)), "tokens -1 to 0 of 8"),
        (AttentionSegment(1, 0, (4,)), "blocks 1 to 4 of 4"),
        (AttentionSegment(9, 0, (3, -1)), "blocks -1 to 3 of 4"),
        (AttentionSegment(1, 0, (0, 2**40)), "blocks 0 to 1099511627776 of 4"),
    ],
)
def test_what_the_cache_does_not_have_is_an_error(
    attention: KernelAttention, segment: AttentionSegment, said: str
) -> None:
    attention.prepare([AttentionSegment(1, 0, (0,))])
    with pytest.raises(IndexError, match=said):
        attention.prepare([AttentionSegment(1, 0, (1,)), segment])
    one = torch.zeros(1, 4, 12)
    with pytest.raises(
        ValueError, match="query: expected"
    ):  # nor is the step before computed again
        attention.forward(0, one, one[:, :2], one[:, :2])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda q, k, v: (q.double(), k, v),
        lambda q, k, v: (q, k.bfloat16(), v),
        lambda q, k, v: (q[:2], k, v),
        lambda q, k, v: (q, k[:, :1], v),
        lambda q, k, v: (q, k, v[..., :11]),
        lambda q, k, v: (q[:, :5], k, v),
        lambda q, k, v: (q.to("meta"), k, v),
    ],
)
def test_other_shapes_and_dtypes_than_the_steps_are_errors(
    attention: KernelAttention, spoil: Callable[..., tuple[torch.Tensor, ...]]
) -> None:
    attention.prepare([AttentionSegment(3, 0, (2,))])
    query, key, value = torch.randn(3, 6, 12), torch.randn(3, 2, 12), torch.randn(3, 2, 12)
    assert attention.forward(1, query, key, value).isfinite().all()
    with pytest.raises(ValueError, match=r"expected float32|5 query heads"):
        attention.forward(1, *spoil(query, key, value))
    for layer in (-1, 2):
        with pytest.raises(IndexError, match="of 2"):
            attention.forward(layer, query, key, value)


def test_weights_and_rows_that_do_not_fit_are_errors(kernels: Kernels) -> None:
    linear = KernelLinear(kernels, torch.ones(4, 6), bits=32)
    for rows in (torch.ones(2, 5), torch.ones(2, 6).double(), torch.ones(2, 6).to("meta")):
        with pytest.raises(ValueError, match="x: expected"):
            linear(rows)
    with pytest.raises(ValueError, match="weight: expected"):
        KernelLinear(kernels, torch.ones(4, 6).half(), bits=32)
    with pytest.raises(ValueError, match="bias: expected"):
        KernelLinear(kernels, torch.ones(4, 6), torch.ones(3), bits=32)
    with pytest.raises(ValueError, match="gated weight"):
        KernelLinear(kernels, torch.ones(3, 6), bits=32, epilogue="silu_gate")
    for heads in (torch.ones(1, 2, 2, 4, 8), torch.ones(1, 2, 3, 4, 8).double()):
        with pytest.raises(ValueError, match="qkv: expected"):
            attend_all(kernels, heads)


HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 16, 4, 2, 12
SHAPE = DecoderShape(HEADS, KV_HEADS, HEAD_DIM, 1e-6, torch.ones(50, 3), torch.ones(50, 3))
WEIGHTS = LayerWeights(
    attention_norm=torch.ones(HIDDEN),
    qkv=torch.ones((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    qkv_bias=torch.ones((HEADS + 2 * KV_HEADS) * HEAD_DIM),
    out=torch.ones(HIDDEN, HEADS * HEAD_DIM),
    mlp_norm=torch.ones(HIDDEN),
    gate_up=torch.ones(2 * 10, HIDDEN),
    down=torch.ones(HIDDEN, 10),
)


def test_a_decoder_refuses_what_is_not_its_own(
    kernels: Kernels, attention: KernelAttention
) -> None:
    decoder = KernelDecoder(kernels, [WEIGHTS], SHAPE, SingleRank(), bits=32)
    hidden, positions = torch.ones(3, HIDDEN), torch.arange(3)
    attention.prepare([AttentionSegment(3, 0, (2,))])
    assert decoder.run(range(1), hidden.clone(), positions, attention).isfinite().all()
    with pytest.raises(TypeError, match="another device"):
        decoder.run(range(1), hidden, positions, CpuDevice(torch.float32).paged_attention())
    for rows in (hidden[:2], hidden.double(), hidden[:, :8]):
        with pytest.raises(ValueError, match="hidden: expected"):
            decoder.run(range(1), rows, positions, attention)
    for wrong in (positions[:2], positions.int()):
        with pytest.raises(ValueError, match="positions: expected"):
            decoder.run(range(1), hidden, wrong, attention)
    for layers in (range(1, 2), range(3), range(-1, 1)):
        with pytest.raises(IndexError, match="layers"):
            decoder.run(layers, hidden, positions, attention)
    other = KernelAttention(kernels)
    other.allocate(layers=1, blocks=1, block_size=8, kv_heads=2, head_dim=8)
    other.prepare([AttentionSegment(3, 0, (0,))])
    with pytest.raises(ValueError, match="KV cache of"):
        decoder.run(range(1), hidden, positions, other)
    scattered = torch.arange(6)[::2]  # positions of a step that are not one after the other
    close = decoder.run(range(1), hidden.clone(), scattered.clone(), attention)
    assert torch.equal(decoder.run(range(1), hidden.clone(), scattered, attention), close)


@pytest.mark.parametrize("part", ["qkv", "qkv_bias", "out", "mlp_norm", "gate_up"])
def test_weights_of_other_shapes_than_the_decoders_are_refused(kernels: Kernels, part: str) -> None:
    fields = {name: getattr(WEIGHTS, name) for name in LayerWeights.__dataclass_fields__}
    fields[part] = fields[part][:-1]
    with pytest.raises(ValueError, match=part):
        KernelDecoder(kernels, [LayerWeights(**fields)], SHAPE, SingleRank(), bits=32)
