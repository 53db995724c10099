"""The commands for HTTP in docs/ run as they stand, on a system that answers."""

import asyncio
import re
from pathlib import Path

import pytest
from PIL import Image

from glm4v.checkpoint.demo import DEMO_MODEL
from tests.integration.doors import MODEL
from tests.integration.system import System

pytestmark = [pytest.mark.needs_curl, pytest.mark.asyncio(loop_scope="session")]

DOCS = Path(__file__).resolve().parents[2] / "docs"
SERVER = "http://127.0.0.1:8000"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    """The blocks of a page that call the server, and those that set a variable for them."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    setting = "".join(block for block in found if re.match(r"[A-Z]+=", block))
    return [setting + block for block in found if f"{SERVER}/" in block and "curl" in block]


COMMANDS = [(page.name, block) for page in sorted(DOCS.glob("*.md")) for block in blocks(page)]


async def test_there_are_commands_for_each_format() -> None:
    said = "".join(block for name, block in COMMANDS if name == "http-formats.md")
    for path in ("/infer", "/generate", "/generate_stream", "/info", "/ "):
        assert f"{SERVER}{path}" in said


@pytest.mark.parametrize(("page", "block"), COMMANDS)
async def test_a_documented_command_runs(
    page: str, block: str, system: System, tmp_path: Path
) -> None:
    with Image.open(DEMO_MODEL / "examples/dog.png") as image:
        image.convert("RGB").save(tmp_path / "photo.jpg")
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-euc",
        block.replace(SERVER, system.http_url).replace("demo_model", MODEL),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"error" not in out
    assert out
