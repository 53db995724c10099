"""The commands for HTTP in the documentation run as they stand, on a system that answers."""

import asyncio
from pathlib import Path

import pytest
from PIL import Image

from glm4v.checkpoint.demo import DEMO_MODEL
from tests.documentation import CHINESE_GUIDE, HTTP_SERVER, PAGES, Block, blocks
from tests.integration.doors import MODEL
from tests.integration.system import System

pytestmark = [pytest.mark.needs_curl, pytest.mark.asyncio(loop_scope="session")]

# The Chinese guide has the blocks of the English one: tests/unit/docs/test_guide.py.
COMMANDS = [
    block for page in PAGES if page != CHINESE_GUIDE for block in blocks(page) if block.calls_http
]


async def test_there_are_commands_for_each_format() -> None:
    said = "".join(block.text for block in COMMANDS if block.page == "docs/http-formats.md")
    for path in ("/infer", "/generate", "/generate_stream", "/info", "/ "):
        assert f"{HTTP_SERVER}{path}" in said


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: f"{block.page}: {block.chapter}")
async def test_a_documented_command_runs(block: Block, system: System, tmp_path: Path) -> None:
    with Image.open(DEMO_MODEL / "examples/dog.png") as image:
        image.convert("RGB").save(tmp_path / "photo.jpg")
    settings = [each.text for each in blocks(block.page) if each.is_setting]
    typed = "".join([*settings, block.text])
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-euc",
        typed.replace(HTTP_SERVER, system.http_url).replace("demo_model", MODEL),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"error" not in out
    assert out
