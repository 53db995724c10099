"""Batches in one process: the demo model's answers, the sizes of prompts, and the command."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.client.messages import user_message
from glm4v.images import ImageLimits
from glm4v.v1 import inference_pb2 as api
from offline.admission import open_admission
from offline.batch import BatchRunner, BatchSize, Question
from offline.image_folder import GUIDE_QUESTION
from offline.rank_group import Hardware, RankGroup

DOG = DEMO_MODEL / "examples/dog.png"


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("ranks", [1, 2])
async def test_a_batch_is_answered_as_its_questions_alone(ranks: int) -> None:
    examples = [each for each in demo_examples() if each.image is not None][:3]
    checkpoint = Checkpoint.open(DEMO_MODEL)
    group = RankGroup(checkpoint, Hardware("cpu", threads=1, tensor_parallel=ranks))
    counted: list[int] = []
    size = BatchSize(questions=3, prompt_tokens=128, max_tokens=32)
    async with BatchRunner(checkpoint, group, size, counted.append).running() as runner:
        questions = [
            Question(each.turns[0][0], each.image.read_bytes()) for each in examples if each.image
        ]
        result = await runner.answer(questions, max_tokens=32)
        forced = await runner.answer(questions[:1] * 2, max_tokens=4, ignore_eos=True)
    assert [each.text for each in result.answers] == [each.turns[0][1] for each in examples]
    assert [each.tokens for each in forced.answers] == [4, 4]
    assert sum(counted) == sum(each.tokens for each in (*result.answers, *forced.answers))
    times = forced.timings
    assert (len(times.prefill), len(times.decode)) == (1, 3)
    assert times.encode + sum(times.prefill) + sum(times.decode) <= times.total


async def test_the_guides_question_has_the_sizes_that_its_page_says(
    checkpoint_dir: Callable[[str], Path],
) -> None:
    model = checkpoint_dir("tiny-glm4v-1120")  # the real vocabulary and image size
    checkpoint = Checkpoint.open(model)
    tokenizer = Tokenizer.read(model, checkpoint.spec)
    message = user_message(GUIDE_QUESTION, DOG.read_bytes())
    prompt = await open_admission(checkpoint, tokenizer, ImageLimits()).count(
        api.CountTokensRequest(messages=[message])
    )
    assert len(tokenizer.encode(GUIDE_QUESTION)) == 3
    # [gMASK] <sop> <|user|> \n, the image with its two ends, the question, <|assistant|>.
    prompt_tokens = len(prompt.ids) - 3 + checkpoint.spec.vision.num_image_tokens
    assert prompt_tokens == 4 + 1602 + 3 + 1


def test_the_command_writes_the_clean_file_and_mindies_steps(tmp_path: Path) -> None:
    sizes = ("--batch", "1", "--batch", "2", "--max-tokens", "3", "--threads", "1")
    files = ("--csv-dialect", "tidy", "--csv", "t.csv", "--plot", "plot.png", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "glm4v.cli", "bench", "offline", str(DOG), *sizes, *files],
        cwd=tmp_path,
        env={**os.environ, "ATB_LLM_BENCHMARK_ENABLE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (benchmark,) = read_rows(tmp_path / "benchmark_result/benchmark.csv")
    assert benchmark["batch_size"] == "2"  # of the last run
    assert len(benchmark["decode_token_times"].split(",")) == 2
    rows = read_rows(tmp_path / "t.csv")
    assert [row["batch"] for row in rows] == ["1", "2"]
    for row, at in zip(rows, json.loads(done.stdout), strict=True):
        assert float(row["tokens_per_s"]) == pytest.approx(at["tokens_per_s"], abs=1e-4)
        assert row["fingerprint"] == Checkpoint.open(DEMO_MODEL).fingerprint
        assert at["roofline_share"] > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
