"""`glm4v generate` and `glm4v ask --json` print one object, with the golden tokens in it."""

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.golden import greedy_tokens, image, input_ids
from tests.integration.system import System
from tests.parity.golden_plans import cases, open_golden

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUNDLED = open_golden("bundled")
GREEDY = ["--temperature", "0", "--max-tokens", "20", "--ignore-eos", "--json"]
KEYS = {"input_ids", "token_ids", "text", "finish_reason", "usage", "timings", "request_id"}


def write_messages(case: str, file: Path) -> Path:
    """A golden conversation as an OpenAI-shaped file; its image beside it, or inside."""
    messages = []
    for turn in json.loads(str(BUNDLED[f"{case}/conversation"])):
        content: list[dict[str, Any]] = []
        if turn.get("image"):
            data = base64.b64encode(image(BUNDLED, case)).decode()
            url = f"data:image/png;base64,{data}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        if turn.get("content"):
            content.append({"type": "text", "text": turn["content"]})
        messages.append({"role": turn["role"], "content": content})
    file.write_text(json.dumps(messages))
    return file


async def glm4v(*arguments: str | Path) -> dict[str, Any]:
    """The object that the command prints."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("glm4v"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(out)
    assert set(answer) == KEYS
    return answer


@pytest.mark.parametrize("case", ["image_second_turn", "text_multi"])
async def test_generate_prints_the_golden_tokens(
    checkpoint_dir: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    model = checkpoint_dir("micro-glm4v")
    file = write_messages(case, tmp_path / "messages.json")
    options: list[str | Path] = [
        "--model",
        model,
        "--messages",
        file,
        "--dtype",
        "float32",
        "--threads",
        "1",
    ]
    answer = await glm4v("generate", *options, *GREEDY)
    assert answer["input_ids"] == input_ids(BUNDLED, case)
    assert answer["token_ids"] == greedy_tokens(BUNDLED, case)
    assert answer["finish_reason"] == "length"


async def test_ask_prints_the_same_object(system: System, tmp_path: Path) -> None:
    for case in cases(BUNDLED):
        file = write_messages(case, tmp_path / "messages.json")
        answer = await glm4v("ask", "--messages", file, "--server", system.target, *GREEDY)
        assert answer["input_ids"] == input_ids(BUNDLED, case)
        assert answer["token_ids"] == greedy_tokens(BUNDLED, case)
