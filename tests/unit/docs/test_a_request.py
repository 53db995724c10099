"""docs/a-request.md names functions that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "a-request.md"
# `path/to/file.py:Class.method`, and `path/to/file.lua` or `file.cpp:function`
NAMED = re.compile(r"`([\w/]+\.(?:py|lua|cpp))(?::([\w.]+))?`")


def named() -> list[tuple[str, str]]:
    return NAMED.findall(PAGE.read_text(encoding="utf-8"))


def definitions(source: str) -> Iterator[str]:
    """Qualified names of the functions and classes of a module."""

    def walk(nodes: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name
                yield from walk(node.body, f"{prefix}{node.name}.")

    return walk(ast.parse(source).body, "")


@pytest.mark.parametrize(("path", "name"), sorted(set(named())))
def test_what_the_page_names_exists(path: str, name: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".py"):
        assert not name or name in definitions(source)
    else:
        assert not name or re.search(rf"\b{name}\(", source)


def test_the_page_is_about_the_whole_way() -> None:
    folders = {path.partition("/")[0] for path, _ in named()}
    assert folders >= {"glm4v", "gateway", "vision_worker", "lm_worker"}
    assert len(named()) > 60


def test_a_name_that_does_not_exist_is_found() -> None:
    assert "Gateway.generate" in definitions("class Gateway:\n    async def generate(self): ...\n")
    assert "generate" not in definitions("class Gateway:\n    async def generate(self): ...\n")
