"""Where the library of the kernels comes from: compiled ahead, from the cache, or compiled now."""

import ctypes
import logging
import os
from pathlib import Path
from typing import get_args

import pytest
import torch

from glm4v.device import AttentionSegment
from glm4v.device.cpu.kernels import (
    KernelAttention,
    KernelLinear,
    Kernels,
    attend_all,
    library,
    loading,
    processor,
)
from glm4v.device.cpu.kernels.loading import load_compiled, load_library
from glm4v.device.cpu.kernels.prebuild import prebuild
from glm4v.device.cpu.kernels.variants import VARIANTS, Variant, fitting
from glm4v.device.linear import Epilogue
from glm4v.errors import Unavailable

pytestmark = pytest.mark.needs_compiler

FLAGS = ("-O0",)
STAND_IN = """#!/bin/sh
if [ "$1" = -dumpmachine ]; then echo {machine}-linux-gnu; exit; fi
while [ "$1" != -o ]; do shift; done
echo "$2" >> "$0.made"
exec cp {native} "$2"
"""


@pytest.fixture(scope="module")
def native() -> ctypes.CDLL:
    """The library for this processor alone."""
    return load_compiled([processor.native_flag()])


class Compiler:
    """One that is quick: what it makes was made before."""

    def __init__(self, script: Path) -> None:
        self._script = script

    @property
    def calls(self) -> int:
        """Libraries made so far."""
        log = self._script.with_name(f"{self._script.name}.made")
        return len(log.read_text().splitlines()) if log.exists() else 0

    def uninstall(self) -> None:
        """Now there is none."""
        self._script.unlink()


@pytest.fixture
def compiler(tmp_path: Path, native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    script = tmp_path / "c++"
    script.write_text(STAND_IN.format(machine=processor.machine(), native=native._name))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return Compiler(script)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def is_right(loaded: ctypes.CDLL) -> bool:
    weight, x = torch.ones(3, 5), torch.arange(10.0).view(2, 5)
    product = KernelLinear(Kernels(loaded), weight, bits=32)(x)
    return torch.equal(product, x @ weight.T)


def test_what_is_in_the_cache_needs_no_compiler_any_more(cache: Path, compiler: Compiler) -> None:
    for _ in range(2):
        assert is_right(load_compiled(FLAGS, cache))
    assert compiler.calls == 1
    compiler.uninstall()
    assert is_right(load_compiled(FLAGS, cache))
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
        load_compiled(("-O1",), cache)


def test_a_cache_that_is_read_only_is_read(
    cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_compiled(FLAGS, cache)
    (cache / "lock").unlink()
    compiler.uninstall()

    def refuse(path: Path) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    load_compiled(FLAGS, cache)
    assert not (cache / "lock").exists()


def test_what_others_can_write_is_not_loaded(
    cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    load_compiled(FLAGS, cache)
    [made] = cache.glob("*.so")
    assert (cache.stat().st_mode & 0o777, made.stat().st_mode & 0o777) == (0o700, 0o700)
    made.unlink()  # not changed: it is loaded
    made.write_bytes(b"not ours")
    made.chmod(0o722)
    assert is_right(load_compiled(FLAGS, cache))  # made anew elsewhere
    assert compiler.calls == 2
    assert made.read_bytes() == b"not ours"
    assert f"{made} is writable by other users" in caplog.text


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("mode", "is_used"), [(0o777, False), (0o770, False), (0o1777, True), (0o755, True)]
)
def test_a_cache_that_others_can_move_away_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_used: bool
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    cache = shared / "mine" / "cache"
    load_compiled(FLAGS, cache)
    assert bool(list(cache.glob("*.so"))) == is_used
    assert (f"{shared}, a parent of {cache}, is writable" in caplog.text) != is_used
    assert [folder.stat().st_mode & 0o777 for folder in (cache, cache.parent)] == [0o700, 0o700]


def test_the_cache_is_bounded(
    cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_compiled(FLAGS, cache)
    [made] = cache.glob("*.so")
    monkeypatch.setattr(loading, "_KEPT", 2)
    for age, name in enumerate(("kernels-old.so", "kernels-older.so", "kernels-killed.123")):
        (cache / name).write_bytes(b"")
        os.utime(cache / name, (1000 - age, 1000 - age))
    (cache / "something-else").write_bytes(b"")
    made.unlink()
    load_compiled(FLAGS, cache)
    left = {file.name for file in cache.iterdir()}
    assert left == {made.name, "kernels-old.so", "lock", "something-else"}
    assert compiler.calls == 2


def test_another_kernel_of_the_system_changes_nothing_another_processor_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import platform

    before = processor.description()
    monkeypatch.setattr(platform, "release", lambda: "99.0-other")
    monkeypatch.setattr(platform, "version", lambda: "#1 other")
    assert processor.description() == before
    monkeypatch.setattr(processor, "_lines", lambda: (("flags", "fpu sse2"),))
    assert processor.description() != before


@pytest.mark.parametrize(
    ("machine", "said", "flag"),
    [
        ("x86_64", "x86_64", "-march=native"),
        ("aarch64", "aarch64", "-mcpu=native"),
        ("arm64", "aarch64", "-mcpu=native"),  # macOS
        ("AMD64", "x86_64", "-march=native"),
    ],
)
def test_the_machine_decides_the_compilers_flag(
    monkeypatch: pytest.MonkeyPatch, machine: str, said: str, flag: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    processor.machine.cache_clear()
    try:
        assert (processor.machine(), processor.native_flag()) == (said, flag)
    finally:
        monkeypatch.undo()
        processor.machine.cache_clear()


def test_what_was_compiled_ahead_needs_neither_compiler_nor_cache(
    tmp_path: Path, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    (folder / "kernels-0123-x86-64-v3.so").write_bytes(b"of an earlier release")
    made = prebuild(folder)
    assert sorted(folder.iterdir()) == sorted(made)
    compiler.uninstall()
    with caplog.at_level(logging.INFO):
        assert is_right(load_library(cache, folder))
    assert caplog.messages == [f"kernels from {folder / next(fitting()).file_name}"]
    assert not cache.exists()


def test_what_was_compiled_ahead_and_cannot_be_loaded_is_left_out(
    tmp_path: Path, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    [best, *_] = fitting()
    broken = tmp_path / best.file_name  # of another C library, say
    broken.write_bytes(b"")
    assert is_right(load_library(cache, tmp_path))
    assert f"{broken} cannot be loaded" in caplog.text
    assert compiler.calls == 1


def test_only_a_processor_that_can_runs_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    v4, v3, arm = VARIANTS
    old = frozenset(v3.needs - {"fma"})
    cases: tuple[tuple[str, frozenset[str], list[Variant]], ...] = (
        ("x86_64", v4.needs, [v4, v3]),
        ("x86_64", v4.needs - {"avx512vl"}, [v3]),
        ("x86_64", old, []),
        ("aarch64", arm.needs | {"sve"}, [arm]),
        ("aarch64", frozenset({"asimd"}), []),
        ("aarch64", v4.needs, []),
        ("ppc64le", v4.needs, []),
    )
    for machine, features, variants in cases:
        monkeypatch.setattr(processor, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(processor, "features", lambda features=features: features)
        assert list(fitting()) == variants


@pytest.fixture(scope="module")
def pair(native: ctypes.CDLL) -> tuple[Kernels, Kernels]:
    """Kernels for this processor alone, and of the best variant it can run."""
    best = next(fitting(), None)
    assert best is not None, "a processor of the last ten years"
    return Kernels(native), Kernels(load_compiled([best.flag]))


def test_a_variant_computes_the_same_bits(pair: tuple[Kernels, Kernels]) -> None:
    """One vector width, and the same fused products: see decision 6."""
    torch.manual_seed(0)
    alone, variant = pair
    assert alone.lanes == variant.lanes
    for rows, inputs, columns in ((1, 700, 90), (3, 130, 64), (40, 333, 171)):
        weight, bias = torch.randn(2 * columns, inputs), torch.randn(2 * columns)
        x = torch.randn(rows, inputs)
        for bits in (16, 32):
            for epilogue in get_args(Epilogue):
                ours, theirs = (
                    KernelLinear(kernels, weight, bias, bits=bits, epilogue=epilogue)(x)
                    for kernels in pair
                )
                assert torch.equal(ours, theirs)
    heads = torch.randn(2, 70, 3, 4, 12)
    assert torch.equal(attend_all(alone, heads), attend_all(variant, heads))
    query, key, value = torch.randn(9, 6, 12), torch.randn(9, 2, 12), torch.randn(9, 2, 12)
    attended = []
    for kernels in pair:
        attention = KernelAttention(kernels)
        attention.allocate(layers=1, blocks=3, block_size=5, kv_heads=2, head_dim=12)
        attention.prepare([AttentionSegment(8, 0, (2, 0)), AttentionSegment(1, 0, (1,))])
        attended.append(attention.forward(0, query, key, value))
    assert torch.equal(*attended)


def test_structures_of_another_version_are_refused(
    native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = library._STRUCTURES
    monkeypatch.setattr(library, "_STRUCTURES", ours[::-1])
    with pytest.raises(Unavailable, match="kernels of another version: structure sizes are"):
        Kernels(native)
    monkeypatch.setattr(library, "_STRUCTURES", ours)
    with pytest.raises(Unavailable, match="kernels of another version: structure sizes are"):
        Kernels(ctypes.CDLL(None))  # which has none
