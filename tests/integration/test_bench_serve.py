"""`glm4v bench serve` against a running system: every door, both loops, failures."""

import asyncio
import csv
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from bench.command import command
from bench.serve.doors import NAMES
from bench.serve.result_file import read_results
from glm4v.cli.reading import INTERRUPTED
from tests.integration.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOKENS = 6
ONE_TOKEN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b'data:{"token":{"id":1},"generated_text":"a"}\n\n'
)
SMALL = ["--words", "4", "--tokens", str(TOKENS), "--image-size", "64", "--timeout", "60"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["serve", *SMALL, *arguments])


async def serve(system: System, door: str, *arguments: str) -> Result:
    """The command in a thread, since the system lives in this event loop."""
    server = system.target if door == "grpc" else system.http_url
    return await asyncio.to_thread(invoke, "--server", server, "--door", door, *arguments)


@pytest.mark.parametrize("door", NAMES)
async def test_every_request_is_measured_through_every_door(
    door: str, system: System, tmp_path: Path
) -> None:
    file = tmp_path / "results.jsonl"
    result = await serve(
        system, door, "--requests", "4", "--callers", "2", "--images", "0.5", "--output", str(file)
    )
    assert result.exit_code == 0, result.output
    about, found = read_results(file)
    assert about["door"] == door
    assert sorted(each.number for each in found) == [0, 1, 2, 3]
    assert {each.has_image for each in found} == {True, False}
    for each in found:
        assert each.error == ""
        assert 1 <= each.output_tokens <= TOKENS
        assert each.first_s is not None
        assert each.planned_s <= each.sent_s < each.first_s <= each.ended_s
    if door in ("grpc", "openai", "triton"):  # these go on after an end, and tell all numbers
        assert {each.output_tokens for each in found} == {TOKENS}
        assert all(each.prompt_tokens for each in found)


async def test_an_open_loop_reports_figures_and_targets(system: System, tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    arguments = ["--rate", "50", "--requests", "10", "--goodput", "e2el:60000", "--csv", str(file)]
    result = await serve(system, "grpc", *arguments, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["requests"] == 10
    assert figures["output_tokens"] == 10 * TOKENS
    assert figures["goodput_per_s"] == figures["requests_per_s"] > 0
    assert 0 < figures["ttft"]["p50"] <= figures["e2el"]["p50"]
    assert (await serve(system, "grpc", *arguments)).exit_code == 0
    with file.open(newline="") as rows:
        assert [row["requests"] for row in csv.DictReader(rows)] == ["10", "10"]


async def test_figures_are_shown_though_a_file_cannot_be_written(
    system: System, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = await serve(
        system, "grpc", "--requests", "2", "--json", "--output", str(tmp_path / "file" / "1.jsonl")
    )
    assert result.exit_code != 0
    assert json.loads(result.stdout)["requests"] == 2


async def test_failures_are_counted_by_code_and_end_the_command_with_1(
    system: System, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 0, "text_input": "short", "output_length": TOKENS},
        {"timestamp": 10, "input_length": 9000, "output_length": TOKENS},  # exceeds the context
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for door, code in (("grpc", "INVALID_ARGUMENT"), ("openai", "HTTP 400")):
        result = await serve(system, door, "--trace", str(trace), "--json")
        assert result.exit_code == 1, result.output
        figures = json.loads(result.stdout)
        assert figures["failures"] == {code: 1}
        assert figures["requests"] == 2
        assert figures["output_tokens"] == TOKENS


@pytest_asyncio.fixture(loop_scope="session")
async def silent() -> AsyncIterator[str]:
    """The URL of a server that takes requests and says nothing."""
    gone = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gone.set()
    server.close()


async def test_an_open_loop_goes_on_while_the_server_is_silent(silent: str, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    arguments = ["--door", "tgi", "--server", silent, "--rate", "100", "--requests", "20"]
    more = ["--warm-up", "0", "--timeout", "2", "--output", str(file)]
    result = await asyncio.to_thread(invoke, *arguments, *more)
    assert result.exit_code == 1
    _, found = read_results(file)
    assert {each.error for each in found} == {"timeout"}
    assert max(each.sent_s for each in found) < min(each.ended_s for each in found)


async def fixed_answer(answer: bytes) -> tuple[asyncio.Server, str, asyncio.Semaphore]:
    """A server that gives every request these bytes, its URL, and how often it has."""
    answered = asyncio.Semaphore(0)

    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(answer)
        writer.close()
        answered.release()

    server = await asyncio.start_server(write, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", answered


@pytest.mark.parametrize(
    ("door", "answer", "error"),
    [
        ("openai", b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "broken off"),
        ("openai", b'data: {"error":{"message":"lost"}}\n\n', "error in the stream"),
        ("tgi", b'data:{"token":{"id":1}}\n\n', "broken off"),
        (
            "tgi",
            b'data:{"token":{"id":1}}\n\nevent: error\ndata:{"error":"lost"}\n\n',
            "error in the stream",
        ),
        ("mindie", b'data:{"token":{"id":[1]}}\n\nError: lost\n', "broken off"),
        ("triton", b'data: {"text_output":"a"}\n\n', "broken off"),
        ("vllm", b'{"text":["a"]}\n{"error":"lost","code":500}\n', "error in the stream"),
        ("vllm", b"", "broken off"),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_failure(
    door: str, answer: bytes, error: str, tmp_path: Path
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    server, url, _ = await fixed_answer(head + answer)
    file = tmp_path / "results.jsonl"
    arguments = ["--server", url, "--door", door, "--model", "m", "--requests", "1"]
    more = ["--warm-up", "0", "--output", str(file)]
    result = await asyncio.to_thread(invoke, *arguments, *more)
    server.close()
    assert result.exit_code == 1, result.output
    _, [found] = read_results(file)
    assert found.error == error
    assert ("lost" in found.details) == (error == "error in the stream")


async def test_an_interrupt_reports_what_has_ended(tmp_path: Path) -> None:
    server, url, answered = await fixed_answer(ONE_TOKEN)
    file = tmp_path / "results.jsonl"
    arguments = ["--server", url, "--door", "tgi", "--requests", "100000", "--output", str(file)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "glm4v.cli", "bench", "serve", *SMALL, *arguments, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        for _ in range(20):
            await answered.acquire()
        process.send_signal(signal.SIGINT)
        output, errors = await process.communicate()
    server.close()
    assert process.returncode == INTERRUPTED, errors.decode()
    _, found = read_results(file)
    figures = json.loads(output)
    assert figures["requests"] == len(found) >= 15  # without the warm-up
    assert 0 <= figures["interrupted"] <= 1
    assert {(each.error, each.output_tokens) for each in found} == {("", 1)}
