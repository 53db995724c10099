"""The commands in the documentation, and which of them no test types."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
GUIDE = "docs/guide.md"
CHINESE_GUIDE = "docs/guide.zh.md"
PAGES = (README, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
HTTP_SERVER = "http://127.0.0.1:8000"  # of the commands with curl
_SETTING = re.compile(r"(?:[A-Za-z_]+=\S*(?:\$\(.*\)\S*)?(?: *#.*)?\n)+")

# Beginnings of blocks, by page, and what runs such commands instead.
NOT_TYPED = {
    README: {
        "make demo": ".ci/run",
        "pip install 'glm4v-serve[gateway]'": "tests/integration/test_wheel.py",
        "helm install": "needs a cluster; tests/chart",
        "make chaos": "tests/chaos/test_chaos.py",
        "glm4v bench engine": "minutes; tests/integration/test_bench_engine.py and others",
        "make check": ".ci/run",
    },
    GUIDE: {
        "python ${script_path}/precision/clip_score": "tests/unit/precision/test_commands.py",
        "glm4v precision compare": "needs a CLIP model; tests/unit/precision/test_commands.py",
    },
    "docs/ascend.md": {"pip install": "tests/npu/test_check.py"},
    "docs/clients.md": {"glm4v up --http-port": "tools of others; the page says how they ran"},
    "docs/cuda.md": {"python -m bench.gpu": "needs a GPU; tests/unit/bench/test_gpu.py"},
    "docs/images.md": {
        "for target": "tests/images",
        "docker build": "tests/images",
        "docker compose": "tests/deploy/test_compose.py",
        "MODELS=": "tests/deploy/test_compose.py",
        "glm4v keys new alice --file keys.txt && sudo": "tests/deploy/test_compose.py",
    },
    "docs/kserve.md": {"pip install": "tests/integration/test_triton_clients.py"},
    "docs/kubernetes.md": {
        "helm install": "needs a cluster; tests/chart",
        "glm4v keys new helm-test --f": "needs a cluster; tests/chart",
    },
    "docs/precision.md": {
        "pip install 'glm4v-serve": "needs a CLIP model; tests/unit/precision/test_commands.py",
        "glm4v precision compare": "needs a CLIP model; tests/unit/precision/test_commands.py",
    },
    "docs/security.md": {"export GLM4V_API_KEY_FILE": "tests/integration/test_callers.py"},
}


class Block(NamedTuple):
    """A block of code."""

    page: str
    chapter: str  # the heading of the second level above it
    language: str
    text: str

    @property
    def is_setting(self) -> bool:
        """Whether it only sets variables, for the blocks after it."""
        return _SETTING.fullmatch(self.text) is not None

    @property
    def calls_http(self) -> bool:
        """Whether it sends requests with curl."""
        return "curl" in self.text and f"{HTTP_SERVER}/" in self.text

    @property
    def not_typed(self) -> str:
        """Why no test types it; empty if one does."""
        reasons = NOT_TYPED.get(self.page, {}).items()
        return next((reason for start, reason in reasons if self.text.startswith(start)), "")


def headings(page: str) -> list[str]:
    """The headings of a page, with their marks."""
    return [line for line, language in _lines(page) if not language and line.startswith("#")]


def blocks(page: str, language: str = "sh") -> list[Block]:
    """The blocks of a page in one language; the empty one are plain blocks."""
    return [block for block in _blocks(page) if block.language == language]


def _blocks(page: str) -> Iterator[Block]:
    chapter = text = inside = ""
    for line, fence in _lines(page):
        if not fence:
            chapter = line.removeprefix("## ") if line.startswith("## ") else chapter
        elif not line.startswith("```"):
            text += f"{line}\n"
        elif inside:
            yield Block(page, chapter, fence.removeprefix("```"), text)
            inside = text = ""
        else:
            inside = fence


def _lines(page: str) -> Iterator[tuple[str, str]]:
    """Each line, and the fence of its block."""
    fence = ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and not fence:
            fence = line
            yield line, fence
        elif line == "```":
            yield line, fence
            fence = ""
        else:
            yield line, fence
