"""A backend is one folder: nothing outside of glm4v/device knows which ones there are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DEVICE = ROOT / "glm4v" / "device"
PACKAGES = (
    "glm4v",
    "gateway",
    "vision_worker",
    "lm_worker",
    "offline",
    "bench",
    "precision",
    "recipes",
)
BACKENDS = sorted(folder.parent.name for folder in DEVICE.glob("*/__init__.py"))
SEAM = {"Device", "Attention", "Decoder", "VisionLayer", "Linear", "Arbiter", "Collective"}
BENCHES = {ROOT / "bench" / "products.py"}  # measure one backend's parts and nothing else
COLLECTIVES = ("gloo", "nccl", "hccl")


def classes_of(backend: str) -> set[str]:
    """The classes of a backend that stand for those of the seam."""
    trees = (ast.parse(file.read_text()) for file in (DEVICE / backend).rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    return {one.name for one in classes if SEAM & {ast.unparse(base) for base in one.bases}}


def test_no_file_outside_names_a_backend() -> None:
    assert {"cpu", "simulated"} <= set(BACKENDS)
    classes = set.union(*map(classes_of, BACKENDS))
    assert {"CpuDevice", "SimulatedDevice", "KernelLinear"} <= classes
    modules = [rf"glm4v\.device\.{backend}" for backend in BACKENDS]
    words = re.compile(rf"\b({'|'.join([*classes, *modules])})\b")
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    outside = [file for file in files if DEVICE not in file.parents and file not in BENCHES]
    assert len(outside) > 100
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in outside
        for match in words.finditer(file.read_text())
    ]
    assert found == []


def test_no_worker_names_a_collective_backend() -> None:
    words = re.compile(rf"\b({'|'.join(COLLECTIVES)})\b", re.IGNORECASE)
    found = [
        str(file.relative_to(ROOT))
        for package in ("lm_worker", "vision_worker", "offline", "bench")
        for file in (ROOT / package).rglob("*.py")
        if words.search(file.read_text())
    ]
    assert found == []
