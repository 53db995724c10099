"""The `glm4v` command as a user runs it: its own process, a scripted gateway at the other end."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
import typer

from glm4v.cli.options import gateway_address
from glm4v.process.environment import PROCESSES, variable_of
from tests.processes import wait_until
from tests.scripted_gateway import ANSWER, ScriptedGateway, serving

ROOT = Path(__file__).resolve().parents[3]
TEXT = "".join(ANSWER) + "。"
IMAGE = b"an image, as far as the client knows"


def command(*words: str, code: str = "from glm4v.cli import main; main()") -> list[str]:
    return [sys.executable, "-c", code, *words]


def environment(folder: Path, **more: str) -> Mapping[str, str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GLM4V_")}
    return {**clean, "PYTHONPATH": path, **more}


def run(
    folder: Path, *words: str, code: str = "from glm4v.cli import main; main()", **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, code=code),
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway([])


@pytest.fixture
def server(gateway: ScriptedGateway) -> Iterator[str]:
    with serving(gateway) as (target, _):
        yield target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    (tmp_path / "no_suffix").write_bytes(IMAGE)
    document = [{"role": "user", "content": "from a file"}]
    (tmp_path / "talk.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path


def test_ask_writes_the_answer_and_a_summary(folder: Path, server: str) -> None:
    done = run(folder, "ask", "你好", "--server", server, "--request-id", "mine")
    assert (done.returncode, done.stdout) == (0, TEXT + "\n")
    assert done.stderr == (
        "6 tokens in 4.00 s, 2.0 tokens/s, first token after 0.50 s, "
        "truncated at max_tokens or the end of the context, request mine\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("photo.jpg", "什么？"),
        ("no_suffix", "什么？"),
        ("--image", "photo.jpg", "什么？"),
        ("photo.jpg", "--messages", "talk.json"),
        ("--image", "photo.jpg", "--messages", "talk.json"),
    ],
)
def test_each_way_to_give_an_image_sends_it(
    folder: Path, server: str, gateway: ScriptedGateway, words: tuple[str, ...]
) -> None:
    done = run(folder, "ask", *words, "--server", server)
    assert done.returncode == 0, done.stderr
    [message] = gateway.requests[0].messages
    assert [part.WhichOneof("content") for part in message.parts] == ["image", "text"]
    assert message.parts[0].image.data == IMAGE
    assert message.parts[1].text == ("from a file" if "talk.json" in words else "什么？")


@pytest.mark.parametrize("text", ["what is in photo.jpg", "x" * 5000, "photo"])
def test_a_question_that_only_mentions_an_image_is_a_question(
    folder: Path, server: str, gateway: ScriptedGateway, text: str
) -> None:
    assert run(folder, "ask", text, "--server", server).returncode == 0
    assert gateway.requests[0].messages[0].parts[0].text == text


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("absent.png", "什么？"), 3, "cannot read the image absent.png: No such file"),
        (("absent.png", "--messages", "talk.json"), 3, "image absent.png: No such file"),
        (("--messages", "absent.json"), 3, "cannot read the conversation absent.json"),
        ((), 2, "no question"),
        (("photo.jpg",), 2, "no question"),
        (("什么？", "--messages", "talk.json"), 2, "--messages already has the text"),
        (("--image", "photo.jpg", "photo.jpg", "什么？"), 2, "two images"),
        (("什么？", "--logprobs", "2"), 2, "--prompt-logprobs need --json"),
        (("什么？", "--seed", "-1"), 3, "seed is -1"),
        (("什么？", "--warmth", "2"), 2, "No such option: --warmth"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_sent(
    folder: Path,
    server: str,
    gateway: ScriptedGateway,
    words: tuple[str, ...],
    exit_code: int,
    message: str,
) -> None:
    done = run(folder, "ask", *words, "--server", server)
    assert message in done.stderr
    assert done.returncode == exit_code
    assert done.stdout == ""
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("a\udcff",), 3, "glm4v: the question: not Unicode text at character 1"),
        (("photo.jpg", "a\udcff"), 3, "glm4v: the question: not Unicode text at character 1"),
        (("a", "--stop", "b", "--stop", "a\udcff"), 2, "'--stop': not UTF-8 text at character 1"),
        (("a", "--choice", "\udcff"), 2, "'--choice': not UTF-8 text at character 0"),
        (("a", "--regex", "\udcff"), 2, "'--regex': not UTF-8 text at character 0"),
        (("a", "--request-id", "\udcff"), 2, "'--request-id': not UTF-8 text at character 0"),
        (("a", "--server", "\udcff"), 2, "'--server': not UTF-8 text at character 0"),
        (("a", "--image", "\udcff.png"), 3, "glm4v: cannot read the image ?.png: No such file"),
        (("--messages", "\udcff"), 3, "cannot read the conversation ?: No such file"),
    ],
)
def test_an_argument_that_is_not_utf8_is_said_in_one_line(
    folder: Path, words: tuple[str, ...], exit_code: int, message: str
) -> None:
    done = run(folder, "ask", *words)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (exit_code, "")


def test_the_name_of_an_image_may_be_any_bytes(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(IMAGE)
    assert run(folder, "ask", name, "x", "--server", server).returncode == 0
    assert gateway.requests[0].messages[0].parts[0].image.data == IMAGE


def test_output_that_takes_no_unicode_gets_escapes_in_json_and_marks_in_text(
    folder: Path, server: str
) -> None:
    words = ("ask", "x", "--server", server)
    done = run(folder, *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, TEXT.encode("ascii", "replace").decode() + "\n")
    done = run(folder, *words, "--json", PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["text"] == TEXT


def test_json_is_one_object_with_everything(folder: Path, server: str) -> None:
    words = ("--server", server, "--request-id", "mine", "--json", "--logprobs", "1")
    done = run(folder, "ask", "你好", *words)
    assert done.stderr == ""
    one = {"token_id": 100, "logprob": -0.5, "top": [{"token_id": 9, "logprob": -0.25}]}
    assert json.loads(done.stdout) == {
        "request_id": "mine",
        "input_ids": [1, 2, 3],
        "token_ids": [100, 101, 102, 103, 104, 105],
        "text": TEXT,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "image_tokens": 18, "completion_tokens": 6},
        "timings": {
            "vision_s": 0.25,
            "time_to_first_token_s": 0.5,
            "decode_s": 2.5,
            "total_s": 4.0,
        },
        "logprobs": [{**one, "token_id": 100 + i} for i in range(6)],
    }


def test_json_has_logprobs_only_when_asked(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    assert "logprobs" not in json.loads(
        run(folder, "ask", "a", "--json", "--server", server).stdout
    )
    assert not gateway.requests[0].HasField("top_logprobs")
    assert gateway.requests[0].return_prompt_ids


def test_options_reach_the_request(folder: Path, server: str, gateway: ScriptedGateway) -> None:
    words = (
        "--temperature 0 --top-k 5 --min-p 0.5 --max-tokens 7 --stop a --stop b --stop-token-id 3"
    )
    run(folder, "ask", "x", *words.split(), "--ignore-eos", "--server", server)
    [request] = gateway.requests
    assert request.sampling.HasField("temperature")
    assert (request.sampling.top_k, request.sampling.min_p) == (5, 0.5)
    assert not request.sampling.HasField("top_p")
    assert (request.max_tokens, request.ignore_eos) == (7, True)
    assert (list(request.stop), list(request.stop_token_ids)) == (["a", "b"], [3])


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 3),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 6),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 6),
        (grpc.StatusCode.CANCELLED, 7),
        (grpc.StatusCode.ABORTED, 1),
    ],
)
def test_a_refusal_is_one_line_and_its_exit_code(
    folder: Path, server: str, gateway: ScriptedGateway, status: grpc.StatusCode, exit_code: int
) -> None:
    gateway.breaks, gateway.status = [0], (status, "17 seen, 16 allowed")
    done = run(folder, "ask", "x", "--server", server)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr == "glm4v: 17 seen, 16 allowed\n"


def test_interrupting_ask_cancels_the_request(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    gateway.breaks, gateway.hangs = [6], True
    words = command("ask", "x", "--server", server, "--request-id", "mine")
    with subprocess.Popen(
        words, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3).decode() == ANSWER[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert gateway.cancelled == ["mine"]


def test_a_terminal_sees_the_stage_while_it_waits(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    gateway.breaks, gateway.hangs = [3], True
    terminal, end = pty.openpty()
    words = command("ask", "x", "--server", server)
    seen: list[bytes] = []
    with subprocess.Popen(
        words, env=environment(folder, TERM="xterm"), stdout=subprocess.DEVNULL, stderr=end
    ) as process:
        os.close(end)

        def shows_encoding() -> bool:
            seen.append(os.read(terminal, 1000))
            return b"encoding the image" in b"".join(seen)

        wait_until(shows_encoding)
        assert b"0:00:0" in b"".join(seen)
        process.kill()
    os.close(terminal)


def test_attach_leaves_out_what_is_known_and_cancel_says_whether_it_did(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    done = run(folder, "attach", "mine", "--offset", "3", "--server", server)
    assert (done.returncode, done.stdout) == (0, " cat!。\n")
    assert gateway.calls == [("attach", "mine", 3)]
    assert run(folder, "cancel", "mine", "--server", server).stdout == "mine cancelled\n"
    assert run(folder, "cancel", "mine", "--server", server).stdout == "mine had already ended\n"


def test_without_the_extras_the_command_says_what_to_install(folder: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from glm4v.cli import main; main()"
    done = run(folder, "ask", "x", code=code)
    assert done.returncode == 2
    assert done.stderr == (
        "glm4v: typer is not installed; run pip install 'glm4v-serve[gateway,worker]'\n"
    )


def test_ask_does_not_load_torch(folder: Path, server: str) -> None:
    code = (
        "import sys; from glm4v.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = run(folder, "ask", "x", "--server", server, code=code)
    assert done.stdout == TEXT + "\n[]\n"


def add_plugin(folder: Path, source: str) -> None:
    """A package that joins the command, as pip would leave it."""
    (folder / "above.py").write_text(source, encoding="utf-8")
    info = folder / "above-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: above\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[glm4v.commands]\nfly = above:fly\n")


def test_packages_above_join_the_command_and_load_only_when_asked_for(
    folder: Path, server: str
) -> None:
    add_plugin(
        folder,
        "import pathlib\npathlib.Path('loaded').touch()\n"
        "def fly(high: int = 1) -> None:\n    'Rise.'\n    print(f'flying {high}')\n",
    )
    assert run(folder, "ask", "x", "--server", server).returncode == 0
    assert not (folder / "loaded").exists()
    assert run(folder, "fly", "--high", "3").stdout == "flying 3\n"
    assert "fly" in run(folder, "--help").stdout


def test_an_unexpected_error_is_one_line_unless_the_trace_is_asked_for(folder: Path) -> None:
    add_plugin(folder, "def fly() -> None:\n    raise KeyError('wing\\nless')\n")
    done = run(folder, "fly")
    assert done.returncode == 1
    assert done.stderr.startswith("glm4v: unexpected KeyError: ")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in run(folder, "fly", GLM4V_DEBUG="1").stderr


def test_a_plugin_whose_packages_are_missing_does_not_spoil_the_help(folder: Path) -> None:
    add_plugin(folder, "import no_such_package\n")
    done = run(folder, "--help")
    assert done.returncode == 0
    assert "fly" not in done.stdout
    done = run(folder, "fly")
    assert done.returncode == 2
    assert "no_such_package is not installed; run pip install 'glm4v-serve[" in done.stderr


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("peers --server 127.0.0.1:1", "httpx"),
        ("peers --server 127.0.0.1:1 --report page", "matplotlib"),
        ("engine --plot plot.png", "matplotlib"),
    ],
)
def test_bench_says_before_it_measures_which_extra_it_lacks(
    folder: Path, words: str, package: str
) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from glm4v.cli import main; main()"
    done = run(folder, "bench", *words.split(), code=code)
    assert done.stderr == (
        f"glm4v: {package} is not installed; run pip install 'glm4v-serve[bench]'\n"
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_help_tells_the_exit_codes_and_the_version_is_the_packages(folder: Path) -> None:
    import glm4v

    assert "130 interrupted" in run(folder, "--help").stdout
    assert run(folder, "--version").stdout == f"{glm4v.__version__}\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [("--port {0} --http-port 0", "--port"), ("--port {1} --http-port {0}", "--http-port")],
)
def test_up_says_in_one_line_why_it_cannot_start(folder: Path, words: str, option: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port, free = str(taken.getsockname()[1]), other.getsockname()[1]
        other.close()
        done = run(folder, "up", *words.format(port, free).split())
    assert done.returncode == 5
    assert done.stderr == (
        f"glm4v: port {port} of 127.0.0.1 cannot be used (Address already in use); choose another "
        f"with {option}, or another address of this machine with --host\n"
    )


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ("--model absent", 4, "absent: no such directory"),
        ("--model .", 4, "config.json: no such file; is this a GLM-4V checkpoint?"),
        ("--tensor-parallel 3", 2, "--tensor-parallel: 8 attention heads do not divide into 3"),
        ("--tensor-parallel 0", 2, "'--tensor-parallel'"),
        ("--max-num-seqs 0", 2, "'--max-num-seqs'"),
        ("--dtype int8", 2, "'--dtype': "),
        ("--log-level loud", 2, "'--log-level': "),
        ("--port 65536", 2, "'--port': "),
        ("--http-port 65536", 2, "'--http-port': "),
        ("--host 192.0.2.1", 5, "of 192.0.2.1 cannot be used (Cannot assign requested address)"),
        ("--host 0.0.0.0", 2, "without API keys the gateway does not listen on 0.0.0.0:"),
        ("--data-dir photo.jpg", 2, "--data-dir photo.jpg: File exists"),
    ],
)
def test_what_up_cannot_do_is_said_before_anything_starts(
    folder: Path, words: str, exit_code: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ports = ("--port", port, "--http-port", "0")
    done = run(folder, "up", *ports, *words.split())  # the last of an option counts
    assert message in done.stderr
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert "redis" not in done.stderr


def test_up_without_the_packages_of_workers_starts_nothing(folder: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from glm4v.cli import main; main()"
    done = run(folder, "up", code=code)
    assert done.stderr == ("glm4v: torch is not installed; run pip install 'glm4v-serve[worker]'\n")
    assert done.returncode == 2


def test_up_reads_the_variables_before_anything_starts(folder: Path) -> None:
    done = run(folder, "up", GLM4V_BLOCK_SIZE="-1")
    assert done.returncode == 2
    assert done.stderr.startswith("glm4v: GLM4V_BLOCK_SIZE is '-1': ")


@pytest.mark.parametrize("words", [("ask", "x"), ("attach", "x"), ("cancel", "x")])
def test_without_a_gateway_one_hears_so_soon_and_what_to_do(
    folder: Path, words: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = f"127.0.0.1:{free.getsockname()[1]}"
    done = run(folder, *words, "--server", target)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == (
        f"glm4v: {target} was unavailable for 1.0 s: Connection refused; is the gateway running "
        "there? `glm4v up` starts one; --server HOST:PORT selects another\n"
    )


def test_who_listens_and_says_nothing_is_no_gateway(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run(folder, "ask", "x", "--server", target)
    assert done.returncode == 5
    assert re.search(
        rf"{target} .* 1(\.0)? s.*; is the gateway running there\? `glm4v up`", done.stderr
    )


@pytest.mark.parametrize(
    ("argument", "target"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("http://127.0.0.1:80/", "127.0.0.1:80"),
        ("HTTP://host:80", "host:80"),
        ("grpc://host:80//", "host:80"),
        ("host", "host:8330"),
        ("http://host/", "host:8330"),
        ("[::1]", "[::1]:8330"),
        ("http://[::1]:80/", "[::1]:80"),
        ("https://host:80/", "https://host:80"),
        ("HTTPS://host", "https://host:443"),
        ("unix:/run/glm4v.sock", "unix:/run/glm4v.sock"),
        ("dns:///host:80", "dns:///host:80"),
    ],
)
def test_the_address_of_a_gateway_may_be_written_as_a_url(argument: str, target: str) -> None:
    assert gateway_address(argument) == target


@pytest.mark.parametrize("argument", ["https://", "host:port", ":80", "host:70000", "a/b:1"])
def test_what_is_no_address_of_a_gateway_is_refused(argument: str) -> None:
    with pytest.raises(typer.BadParameter):
        gateway_address(argument)


@pytest.mark.parametrize(
    ("texts", "note"),
    [
        (["a", "b", "c"], ""),
        (
            ["a", "b", "a"],
            "only 2 of 3 answers are different; "
            "a higher --temperature and --top-p give more variety",
        ),
        (
            ["a", "a", "a"],
            "all 3 answers are equal; a higher --temperature and --top-p give more variety",
        ),
    ],
)
def test_equal_answers_are_said_to_be_equal(
    folder: Path, server: str, gateway: ScriptedGateway, texts: list[str], note: str
) -> None:
    gateway.several = texts
    done = run(folder, "ask", "x", "-n", "3", "--best-of", "8", "--server", server)
    assert done.stdout == "".join(f"[{i}] {text}\n" for i, text in enumerate(texts))
    assert [line for line in done.stderr.splitlines() if "answers" in line] == (
        [note] if note else []
    )


def test_an_answer_that_was_cut_off_is_said_to_be(
    folder: Path, server: str, gateway: ScriptedGateway
) -> None:
    assert "truncated at" in run(folder, "ask", "x", "--server", server).stderr
    gateway.several = ["it ends by itself"]
    assert "cut off" not in run(folder, "ask", "x", "--server", server).stderr


def test_dead_says_where_no_redis_is(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"redis://127.0.0.1:{free.getsockname()[1]}/0"
    done = run(folder, "dead", "list", "--redis-url", url)
    assert done.stderr == (
        f"glm4v: no Redis at {url} (Connection refused); start it, or correct its URL\n"
    )
    assert done.returncode == 5


def test_up_does_not_show_the_password_of_a_redis_that_is_away(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"redis://:secret@127.0.0.1:{port}/0"
    ports = ("--port", str(port), "--http-port", "0")
    done = run(folder, "up", *ports, GLM4V_REDIS_URL=url)
    assert done.returncode == 5
    assert done.stderr == (
        f"glm4v: no Redis at redis://127.0.0.1:{port}/0 (Connection refused); start it, or "
        "correct its URL\n"
    )


@pytest.mark.parametrize(
    ("words", "exit_code"), [(("examples",), 0), (("up", "--model", "absent"), 4)]
)
def test_closed_streams_change_no_exit_code(
    folder: Path, words: tuple[str, ...], exit_code: int
) -> None:
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command(*words)]
    done = subprocess.run(shell, cwd=folder, env=environment(folder), timeout=60, check=False)
    assert done.returncode == exit_code


def test_settings_lists_every_variable_with_its_default_unit_and_process(folder: Path) -> None:
    done = run(folder, "settings")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    words = [[word.strip() for word in line if word.strip()] for line in lines]
    for kind in PROCESSES.values():
        for name in kind.model_fields:
            assert any(line[0] == variable_of(name) for line in words), name
    assert ["GLM4V_DRAIN_TIMEOUT_S", "10", "seconds", "all"] in [line[:4] for line in words]
    assert ["GLM4V_LISTEN", "127.0.0.1:8331", "vision worker"] in [line[:3] for line in words]
    assert ["GLM4V_MODEL", "required", "all", "checkpoint folder"] in words
