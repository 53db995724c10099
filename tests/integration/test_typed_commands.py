"""The commands of README and docs/, typed chapter by chapter on the demo model and on a CPU.

Those with curl are in test_documented_commands.py; tests/documentation.py names those that no test
types. `glm4v up` runs once, for all of them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.local.preflight import free_port
from tests.documentation import CHINESE_GUIDE, GUIDE, PAGES, README, ROOT, Block, blocks

LOOPBACK = "127.0.0.1"
SERVER = f"{LOOPBACK}:8330"
READY_S, TYPING_S = 120, 100
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "GLM4V_THREADS": "1",
}
IMAGES = ("dog.png", "number.png", "rocket.png")
# Few tokens and small batches, where a page has those of a real measurement; and no NPU.
SMALLER = {
    "/models/glm-4v-9b": str(DEMO_MODEL),
    "max_batch_size=10": "max_batch_size=2",
    "max_output_length=256": "max_output_length=3",
    "--candidate npu": "--candidate cpu,dtype=bfloat16",
    "/data/coco/test2014": "images",
    "--count 100": "--count 2",
}
QUESTION = "描述这张图片"
CAPTIONS = '{\n    "dog.png": "狗。",\n    "number.png": "'
PNG = b"\x89PNG"
# As MindIE's files begin, blanks and spelling included. The demo model's prompt has 74 tokens.
PERFORMANCE = (
    "batch, input_len, output_len, embedding_len, fisrt_token_time(ms),                 "
    "non_first_token_time(ms), ResponseTime(ms),E2E Throughput Average(Tokens/s)\n"
    "1, 3, 3,74,                 "
)
BENCHMARK = (
    "batch_size,input_seq_len,output_seq_len,e2e_time(ms),prefill_time(ms),"
    "decoder_token_time(ms),prefill_count,prefill_token_times,decode_token_times,"
    "prefill_average_time(ms)\n2,74,3, "
)

# What the commands of a chapter print, on either stream.
PRINTED = {
    (GUIDE, "Weights"): [f"fingerprint {Checkpoint.open(DEMO_MODEL).fingerprint}", "sha256 "],
    (GUIDE, "Environment"): ["The default device, cpu, can serve."],
    (GUIDE, "Inference"): [
        *(f"Question[{number}]: {QUESTION}\nAnswer[{number}]: " for number in range(3)),
        "\nAnswer[0]: 狗。\nGenerate[0] token num: (0, 4)\n",
        # Of three images and two questions the last one gets the second question again.
        "Question[1]: What is this?\nAnswer[1]: The number 16210.\n",
        "Question[2]: What is this?\nAnswer[2]: A rocket.\nGenerate[2] token num: (2, 7)\n",
        "-trust_remote_code is not needed",
        "MASTER_PORT has no effect",
        "INF_NAN_MODE_ENABLE=1 is handed on to torch_npu",
        "rank 1 of 2 ready",
    ],
    (GUIDE, "Accuracy"): ["--trust_remote_code is not needed", "agrees with cpu (allowed: "],
    ("docs/precision.md", "A sample of images"): ["2 of 3 images of images, seed 0: copied to"],
    (README, "Try it"): ["A dog."],
}
# The files that they write, with their first bytes.
WRITTEN: dict[tuple[str, str], dict[str, str | bytes]] = {
    (GUIDE, "Accuracy"): {
        "gpu_coco_predict.json": CAPTIONS,
        "predict_result.json": CAPTIONS,
        "served_predict.json": CAPTIONS,
    },
    (GUIDE, "Performance"): {
        "glm4v_performance.csv": PERFORMANCE,
        "deploy/benchmark.csv": BENCHMARK,
        "tidy.csv": "batch,text_tokens,prompt_tokens,output_tokens,",
        "batches.png": PNG,
    },
    (README, "Serve a checkpoint"): {"keys.txt": "# API keys of a gateway"},
}


def is_typed(block: Block) -> bool:
    runs_until_ctrl_c = not without_up(block.text).strip()
    return not (block.calls_http or block.is_setting or block.not_typed or runs_until_ctrl_c)


def without_up(text: str) -> str:
    """What ends by itself."""
    return "".join(line for line in text.splitlines(keepends=True) if "glm4v up" not in line)


# The Chinese guide has the blocks of the English one: tests/unit/docs/test_guide.py.
TYPED = [
    block for page in PAGES if page != CHINESE_GUIDE for block in blocks(page) if is_typed(block)
]
CHAPTERS = sorted({(block.page, block.chapter) for block in TYPED})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has where the commands are typed: a checkout, images and a conversation."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("helm"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "images").mkdir()
    for name in IMAGES:
        shutil.copy(DEMO_MODEL / "examples" / name, tmp_path / "images")
    with Image.open(DEMO_MODEL / "examples/dog.png") as image:
        image.convert("RGB").save(tmp_path / "photo.jpg")
    (conversation,) = blocks(README, "json")
    (tmp_path / "conversation.json").write_text(conversation.text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("page", "chapter"), CHAPTERS)
def test_a_chapter_is_typed(
    page: str, chapter: str, folder: Path, server: str, environment: dict[str, str]
) -> None:
    settings = [block.text for block in blocks(page) if block.is_setting]
    typed = [block.text for block in TYPED if (block.page, block.chapter) == (page, chapter)]
    script = "\n".join([*settings, *(f"(\n{text})" for text in typed)])
    done = subprocess.run(
        ["sh", "-euc", for_this_machine(script, server)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TYPING_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for part in PRINTED.get((page, chapter), []):
        assert part in said
    for name, start in WRITTEN.get((page, chapter), {}).items():
        content = (folder / name).read_bytes()
        assert content.startswith(start.encode() if isinstance(start, str) else start), content


def for_this_machine(script: str, server: str) -> str:
    """The same commands with the demo model and this server."""
    for long, short in SMALLER.items():
        script = script.replace(long, short)
    script = re.sub(
        r"glm4v (ask|bench serve) (?!.*--server)", rf"glm4v \1 --server {server} ", script
    )
    return without_up(script).replace(SERVER, server)


def test_python_in_the_readme_runs(folder: Path, server: str) -> None:
    (block,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-c", block.text.replace(SERVER, server)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TYPING_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "A dog."), done.stderr


def test_every_expectation_is_of_a_chapter() -> None:
    assert {*PRINTED, *WRITTEN} <= set(CHAPTERS)
    for long in SMALLER:
        assert any(long in block.text for page in PAGES for block in blocks(page))


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """With a `glm4v` that starts at once."""
    arguments = [sys.executable, "-m", "tests.integration.warm_command"]
    with (
        TemporaryDirectory(prefix="glm4v-") as warm,
        subprocess.Popen(
            [*arguments, warm], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield {**ENVIRONMENT, "PATH": f"{warm}:{ENVIRONMENT['PATH']}"}
        process.stdin.close()
        assert process.wait(TYPING_S) == 0


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway of the guide's `glm4v up`, which ends cleanly on Ctrl-C."""
    ports = f"--port {(port := free_port(LOOPBACK))} --http-port {free_port(LOOPBACK)}"
    (block,) = [block for block in blocks(GUIDE) if "glm4v up" in block.text]
    command = f"exec {block.text.strip()} {ports}".replace("${weight_path}", str(DEMO_MODEL))
    log = tmp_path_factory.mktemp("up") / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(["sh", "-c", command], stdout=out, stderr=out, env=ENVIRONMENT) as process,
    ):
        deadline = time.monotonic() + READY_S
        while "glm4v is ready on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield f"{LOOPBACK}:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(TYPING_S) == 0, log.read_text()
