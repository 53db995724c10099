"""tritonclient, grpcurl, buf and k6, unmodified, against the whole system."""

import asyncio
import base64
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from gateway.doors.kserve.tensors import pack
from tests.integration.system import System, user

ROOT = Path(__file__).resolve().parents[2]
QUESTION, TOKENS = "What is this?", 12
MODEL = "micro-glm4v"
BIN = Path(sys.executable).parent
pytestmark = [
    pytest.mark.needs_clients,
    pytest.mark.asyncio(loop_scope="session"),
]


def image() -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return file.getvalue()


async def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The standard output of a program that succeeds."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=cwd
    )
    async with asyncio.timeout(90):
        out, errors = await process.communicate()
    assert process.returncode == 0, (out + errors).decode()
    return out.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answers(system: System) -> dict[str, str]:
    """What the gateway's own API answers, without and with an image."""
    text = await system.ask([user(QUESTION)], max_tokens=TOKENS)
    with_image = await system.ask([user(QUESTION, image())], max_tokens=TOKENS)
    assert text.text != with_image.text
    return {"text": text.text, "with_image": with_image.text}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def report(system: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tritonclient saw."""
    file = tmp_path_factory.mktemp("image") / "red.png"
    file.write_bytes(image())
    http = system.http_url.removeprefix("http://")
    out = await run(sys.executable, "-m", "tests.clients.triton", system.target, http, MODEL, file)
    return dict(json.loads(out))


async def test_tritonclient_finds_the_model(report: dict[str, Any]) -> None:
    found = report["found"]
    assert found["live"] == found["ready"] == found["model_ready"] == [True, True]
    assert found["other_ready"] == [False, False]
    assert found["server"] == ["glm4v-serve"] * 2
    assert found["decoupled"] == [True, True]
    assert found["web_metadata"]["name"] == found["metadata"]["name"] == MODEL
    for side in ("inputs", "outputs"):
        names = [each["name"] for each in found["web_metadata"][side]]
        assert names == [each["name"] for each in found["metadata"][side]]
    assert found["metadata"]["inputs"][1] == {
        "name": "image",
        "datatype": "BYTES",
        "shape": ["1"],
    }


async def test_tritonclient_gets_the_same_tokens(
    report: dict[str, Any], answers: dict[str, str]
) -> None:
    for door in (report["grpc"], report["http"]):
        assert (door["text"], door["with_image"]) == (answers["text"], answers["with_image"])
    assert report["grpc"]["asyncio"] == answers["with_image"]
    assert (report["grpc"]["id"], report["grpc"]["finish_reason"]) == ("7", "length")


@pytest.mark.parametrize("form", ["stream", "empty_final"])
async def test_tritonclient_streams_several_requests_at_once(
    report: dict[str, Any], answers: dict[str, str], form: str
) -> None:
    stream = report["grpc"][form]
    assert stream["texts"] == {"0": answers["text"], "1": answers["with_image"]}
    assert sorted(stream["ends"]) == ["0", "1"]
    assert stream["pieces"] > 4
    [error] = stream["errors"]
    assert "request 'bad': sampling.top_p is 7; above 0, up to 1 is allowed" in error


async def test_tritonclient_sees_errors_and_cancellation(report: dict[str, Any]) -> None:
    unknown = "model 'other' is not served here; ask for 'micro-glm4v'"
    parameter = "the parameter 'temprature' is unknown; did you mean 'temperature'?"
    grpc, http = report["grpc"], report["http"]
    assert grpc["unknown_model"] == ["StatusCode.NOT_FOUND", unknown]
    assert http["unknown_model"] == ["404", unknown]
    assert grpc["unknown_parameter"] == ["StatusCode.INVALID_ARGUMENT", parameter]
    assert http["unknown_parameter"] == ["400", parameter]
    assert grpc["cancelled"] == ["StatusCode.CANCELLED", "Locally cancelled by application!"]


def request() -> str:
    """A question about an image, for clients that take JSON."""
    encoded = base64.b64encode(image()).decode()
    return json.dumps(
        {
            "model_name": MODEL,
            "id": "7",
            "parameters": {
                "temperature": {"int64_param": 0},
                "max_tokens": {"int64_param": TOKENS},
                "ignore_eos": {"bool_param": True},
            },
            "inputs": [
                {
                    "name": "text_input",
                    "datatype": "BYTES",
                    "shape": [1],
                    "contents": {"bytes_contents": [_base64(QUESTION.encode())]},
                },
                {
                    "name": "image",
                    "datatype": "BYTES",
                    "shape": [1],
                    "contents": {"bytes_contents": [encoded]},
                },
            ],
        }
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_grpcurl_and_buf_answer_and_stream(system: System, answers: dict[str, str]) -> None:
    raw = _base64(pack([answers["with_image"].encode()]))
    service = "inference.GRPCInferenceService"
    curl = (BIN / "grpcurl", "-plaintext", "-d", request(), system.target)
    whole = json.loads(await run(*curl, f"{service}/ModelInfer"))
    assert whole["raw_output_contents"] == [raw]
    buf = (BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", request())
    url = f"http://{system.target}/{service}"
    assert json.loads(await run(*buf, f"{url}/ModelInfer"))["rawOutputContents"] == [raw]
    for stream in (
        await run(*curl, f"{service}/ModelStreamInfer"),
        await run(*buf, f"{url}/ModelStreamInfer"),
    ):
        assert stream.count("triton_final_response") > 1
        assert stream.count("true") == 1


async def test_k6_loads_both_services(
    system: System, answers: dict[str, str], tmp_path: Path
) -> None:
    script = (ROOT / "tests/clients/kserve.k6.js").read_text()
    values = {"TARGET": system.target, "REQUEST": request(), "PROTOS": str(ROOT / "protos")}
    (tmp_path / "load.js").write_text(script)
    flags = [flag for name, value in values.items() for flag in ("-e", f"{name}={value}")]
    quiet = ("--quiet", "--no-usage-report", "--vus", "2", "--iterations", "6")
    summary = tmp_path / "summary.json"
    await run(BIN / "k6", "run", *quiet, "--summary-export", summary, *flags, tmp_path / "load.js")
    checks = json.loads(summary.read_text())["metrics"]["checks"]
    assert (checks["passes"], checks["fails"]) == (12, 0)
