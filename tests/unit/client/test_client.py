"""The client against small real gRPC servers that lose connections in every way we know."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import grpc
import pytest

from glm4v.client import Client, channel
from glm4v.client.generation import Generation
from glm4v.client.messages import user_message
from glm4v.client.options import GenerateOptions
from glm4v.errors import (
    Cancelled,
    DeadlinePassed,
    Glm4vError,
    IdTaken,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    Unavailable,
)
from glm4v.v1 import inference_pb2 as pb
from tests import scripted_gateway
from tests.gateway_process import SENT, gateway_process
from tests.scripted_gateway import (
    ANSWER,
    FINISHED,
    STAGES,
    ScriptedGateway,
    accepted,
    delta,
    serving,
    whole,
)


@contextmanager
def asking(gateway: ScriptedGateway, **options: Any) -> Iterator[Client]:
    with serving(gateway) as (target, _), Client(target, **options) as client:
        yield client


def check_exactly_once(generation: Generation, events: list[pb.GenerationEvent]) -> None:
    offset = generation.choices[0].token_offset
    assert events == whole(generation.request_id, offset)
    assert generation.token_ids == [100 + i for i in range(offset, len(ANSWER))]
    assert generation.finished is not None
    assert generation.finished.reason == pb.FINISH_REASON_LENGTH


@pytest.mark.parametrize("sent", range(len(whole("x"))))
def test_a_stream_broken_anywhere_goes_on_without_loss_or_repetition(sent: int) -> None:
    gateway = ScriptedGateway([sent])
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        check_exactly_once(generation, list(generation))
    assert generation.accepted is not None
    assert generation.accepted.prompt_ids == [1, 2, 3]  # told once, in the first call
    [(first, request_id, _), (second, again, offset)] = gateway.calls
    assert (first, request_id) == ("generate", again)
    assert second == ("attach" if sent else "generate")
    assert offset == max(0, sent - 1 - len(STAGES))


def test_a_stream_broken_again_and_again_is_still_whole() -> None:
    gateway = ScriptedGateway([0, 3, 0, 5, 2, 1, 2])
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        check_exactly_once(generation, list(generation))
    assert len(gateway.calls) == 8


def test_a_stream_that_ends_without_finished_goes_on() -> None:
    gateway = ScriptedGateway([6])
    gateway.status = (grpc.StatusCode.OK, "")
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        check_exactly_once(generation, list(generation))


@pytest.mark.parametrize("offset", range(len(ANSWER) + 1))
def test_attach_yields_what_follows_the_offset(offset: int) -> None:
    gateway = ScriptedGateway([1])
    with asking(gateway) as client, client.attach("r", offset) as generation:
        assert generation.text == "".join(ANSWER[offset:]) + "。"
        assert generation.token_ids == [100 + i for i in range(offset, len(ANSWER))]
    assert gateway.calls == [("attach", "r", offset)] * 2
    assert gateway.cancelled == []


def test_a_killed_gateway_process_is_survived() -> None:
    """SIGKILL in the middle; another process takes the port over."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import sys; from tests.scripted_gateway import *\n"
        "gateway = ScriptedGateway([7]); gateway.hangs = True\n"
        f"with serving(gateway, {port}): print('up', flush=True); sys.stdin.read()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        ) as process,
        Client(f"127.0.0.1:{port}") as client,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        with client.generate([user_message("?")]) as generation:
            events = [next(generation) for _ in range(7)]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            second = ScriptedGateway([])
            with serving(second, port):
                check_exactly_once(generation, events + list(generation))
            assert second.calls == [("attach", generation.request_id, 3)]


def test_a_gateway_that_stops_in_the_middle_is_survived() -> None:
    first, second = ScriptedGateway([7]), ScriptedGateway([])
    first.hangs = True
    with (
        serving(first) as (target, server),
        Client(target) as client,
        client.generate([user_message("?")]) as generation,
    ):
        events = [next(generation) for _ in range(7)]
        server.stop(0).wait()
        with serving(second, int(target.rpartition(":")[2])):
            check_exactly_once(generation, events + list(generation))


def test_tokens_out_of_order_are_an_error_and_not_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_gap(request_id: str, offset: int = 0) -> list[pb.GenerationEvent]:
        return [accepted(request_id), delta(0), delta(2), FINISHED]

    monkeypatch.setattr(scripted_gateway, "whole", with_gap)
    with (
        asking(ScriptedGateway([])) as client,
        pytest.raises(RequestFailed, match="expected token index 1, got 2"),
    ):
        list(client.generate([user_message("?")]))


def test_leaving_early_cancels() -> None:
    gateway = ScriptedGateway([6])
    gateway.hangs = True
    with asking(gateway) as client:
        with client.generate([user_message("?")], request_id="mine") as generation:
            assert next(generation).accepted.request_id == "mine"
        assert gateway.cancelled == ["mine"]
        assert gateway.left.wait(10)
        assert list(generation) == []


def test_leaving_an_attached_request_lets_it_run() -> None:
    gateway = ScriptedGateway([6])
    gateway.hangs = True
    with asking(gateway) as client:
        with client.attach("r") as generation:
            next(generation)
        assert gateway.left.wait(10)
    assert gateway.cancelled == []


def test_a_finished_request_is_not_cancelled() -> None:
    gateway = ScriptedGateway([])
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        assert generation.text == "一只 cat!。"
    assert gateway.cancelled == []


def test_pieces_of_text_are_never_empty() -> None:
    with asking(ScriptedGateway([])) as client:
        pieces = list(client.generate([user_message("?")]).texts())
    assert pieces == ["一", "只", " cat", "!", "。"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.ALREADY_EXISTS, IdTaken),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlinePassed),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.ABORTED, RequestFailed),
        (grpc.StatusCode.INTERNAL, RequestFailed),
    ],
)
def test_a_status_becomes_the_error_of_its_kind(
    status: grpc.StatusCode, kind: type[Glm4vError]
) -> None:
    gateway = ScriptedGateway([2])
    gateway.status = (status, "17 seen, 16 allowed")
    with (
        asking(gateway) as client,
        pytest.raises(kind, match=r"^17 seen, 16 allowed$"),
        client.generate([user_message("?")]) as generation,
    ):
        list(generation)
    assert len(gateway.calls) == 1
    assert gateway.cancelled == []


UNMARKED = [
    (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    (grpc.StatusCode.UNKNOWN, "Stream removed"),
    (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "upstream request timeout"),
]


@pytest.mark.parametrize("status", UNMARKED, ids=lambda status: status[0].name)
def test_what_no_gateway_has_marked_broke_on_the_way(status: tuple[grpc.StatusCode, str]) -> None:
    gateway = ScriptedGateway([0, 7, 0])
    gateway.status, gateway.is_marked = status, False
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        check_exactly_once(generation, list(generation))
    gateway.breaks = [0]
    with asking(gateway) as client:
        assert client.count_tokens([user_message("four")]).prompt_tokens == 4


def test_what_breaks_before_it_is_accepted_is_tried_a_few_times() -> None:
    gateway = ScriptedGateway([0] * 1000)
    gateway.status, gateway.is_marked = UNMARKED[0], False
    image = [user_message("?", bytes(2 * 2**20))]
    with asking(gateway, retry_timeout_s=60) as client:
        for ask in (client.count_tokens, lambda messages: list(client.generate(messages))):
            with pytest.raises(Unavailable, match=r"code 2\), 5 times; the message has 2097"):
                ask(image)
    assert len(gateway.calls) == 5


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300, 1e10])
def test_a_timeout_may_be_longer_than_grpc_counts(timeout_s: float) -> None:
    with asking(ScriptedGateway([3]), timeout_s=timeout_s) as client:
        with client.generate([user_message("?")], timeout_s=timeout_s) as generation:
            check_exactly_once(generation, list(generation))
        assert client.count_tokens([user_message("four")]).prompt_tokens == 4


@pytest.mark.parametrize("timeout_s", [math.nan, 0.0, -1.0, -math.inf])
def test_a_timeout_that_is_none_is_refused_as_a_value(timeout_s: float) -> None:
    said = f"timeout_s is {timeout_s:g}; it must be above 0"
    with pytest.raises(InvalidRequest, match=said):
        Client(timeout_s=timeout_s)
    with Client() as client:
        with pytest.raises(InvalidRequest, match=said):
            client.generate([user_message("?")], timeout_s=timeout_s)
        with pytest.raises(InvalidRequest, match=said):
            client.attach("r", timeout_s=timeout_s)


def test_a_stream_that_is_closed_by_another_thread_is_not_opened_again() -> None:
    gateway = ScriptedGateway([2])
    gateway.hangs = True
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        Timer(0.2, generation.close).start()
        with pytest.raises(Cancelled):
            list(generation)
    assert len(gateway.calls) == 1


def test_reminders_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    reminder = pb.GenerationEvent(progress=pb.Progress(stage=pb.STAGE_QUEUED, unchanged=True))

    def with_reminders(request_id: str, offset: int = 0) -> list[pb.GenerationEvent]:
        return [each for event in whole(request_id, offset) for each in (event, reminder)][:-1]

    monkeypatch.setattr(scripted_gateway, "whole", with_reminders)
    gateway = ScriptedGateway([5, 4, 12])
    with asking(gateway) as client, client.generate([user_message("?")]) as generation:
        check_exactly_once(generation, list(generation))
    assert len(gateway.calls) == 4


def test_a_frozen_gateway_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ping's timeout decides: without it this takes a minute."""
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 500)
    monkeypatch.setattr(channel, "PING_TIMEOUT_MS", 500)
    with gateway_process(pause_s=1000) as (first, process), serving(ScriptedGateway([])) as second:
        target = f"ipv4:{first},{second[0]}"
        with Client(target) as client, client.generate([user_message("?")]) as generation:
            events = [next(generation) for _ in range(SENT)]
            process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            check_exactly_once(generation, events + list(generation))
    assert time.monotonic() - started < 20


def test_nobody_there_is_told_after_a_while_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"127.0.0.1:{port}", retry_timeout_s=0.3) as client:
        for ask in (client.get_model, lambda: list(client.generate([user_message("?")]))):
            with pytest.raises(Unavailable, match=rf"^127.0.0.1:{port} was .*refused.*there\?$"):
                ask()


def test_an_accepted_request_is_waited_for_until_its_deadline() -> None:
    gateway = ScriptedGateway([1] + [0] * 1000)
    with (
        asking(gateway, retry_timeout_s=0.01) as client,
        pytest.raises(DeadlinePassed, match=r"within 1.5 s"),
    ):
        list(client.generate([user_message("?")], timeout_s=1.5))
    assert len(gateway.calls) > 2


def test_a_silent_gateway_is_left_at_the_deadline() -> None:
    gateway = ScriptedGateway([1])
    gateway.hangs = True
    with (
        asking(gateway) as client,
        pytest.raises(DeadlinePassed, match=r"no complete answer within 0.5 s"),
    ):
        list(client.generate([user_message("?")], timeout_s=0.5))


def test_every_option_reaches_the_server_and_nothing_else_is_set() -> None:
    gateway = ScriptedGateway([])
    messages = [user_message("?")]
    with asking(gateway) as client:
        list(client.generate(messages, request_id="a"))
        list(
            client.generate(
                messages,
                temperature=0.0,
                top_p=0.5,
                top_k=3,
                repetition_penalty=1.5,
                min_p=None,
                logit_bias={3: -1},
                seed=2**64 - 1,
                max_tokens=5,
                response_format=pb.ResponseFormat(regex="a+"),
                stop=["x"],
                stop_token_ids=[7],
                ignore_eos=True,
                top_logprobs=2,
                request_id="b",
                orphan_timeout_s=0.5,
                return_prompt_ids=True,
            )
        )
    assert gateway.requests == [
        pb.GenerateRequest(messages=messages, request_id="a"),
        pb.GenerateRequest(
            messages=messages,
            sampling=pb.SamplingParams(
                temperature=0,
                top_p=0.5,
                top_k=3,
                repetition_penalty=1.5,
                logit_bias={3: -1},
                seed=2**64 - 1,
            ),
            max_tokens=5,
            response_format=pb.ResponseFormat(regex="a+"),
            stop=["x"],
            stop_token_ids=[7],
            ignore_eos=True,
            top_logprobs=2,
            request_id="b",
            orphan_timeout_s=0.5,
            return_prompt_ids=True,
        ),
    ]


def test_each_request_has_an_id_of_its_own() -> None:
    with asking(ScriptedGateway([])) as client:
        ids = {client.generate([user_message("?")]).request_id for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "^seed is -1: "),
        ({"max_tokens": 2**40}, f"^max_tokens is {2**40}: "),
        ({"top_k": "all"}, "^top_k is 'all': "),
        ({"stop_token_ids": [-5]}, r"^stop_token_ids is \[-5\]: "),
        ({"warmth": 1}, "^warmth is 1: .*no .*warmth"),
    ],
)
def test_what_no_message_can_hold_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match=message):
        client.generate([user_message("?")], **options)


def test_an_id_that_is_no_unicode_text_is_refused() -> None:
    with Client() as client:  # nobody is asked
        for call in (client.cancel, client.attach):
            with pytest.raises(InvalidRequest, match="request_id: not Unicode text at character 1"):
                call("a\udcff")


def test_every_field_of_a_request_is_an_option() -> None:
    fields = {*pb.GenerateRequest.DESCRIPTOR.fields_by_name}
    fields |= {*pb.SamplingParams.DESCRIPTOR.fields_by_name}
    assert fields - {"messages", "sampling"} == {*GenerateOptions.__annotations__}


def test_an_image_larger_than_grpcs_default_limit_is_sent() -> None:
    gateway = ScriptedGateway([])
    with asking(gateway) as client:
        list(client.generate([user_message("?", bytes(6 * 2**20))]))
    assert len(gateway.requests[0].messages[0].parts[0].image.data) == 6 * 2**20


def test_short_calls_are_tried_again() -> None:
    gateway = ScriptedGateway([0, 0])
    with asking(gateway) as client:
        assert client.count_tokens([user_message("four")]).prompt_tokens == 4
        assert client.get_model().name == "micro"
        assert client.cancel("a") is True
        assert client.cancel("a") is False
    assert gateway.breaks == []


def test_nothing_but_grpcio_and_protobuf_is_imported() -> None:
    code = (
        "import sys; import glm4v.client, glm4v.client.conversation_file\n"
        "heavy = ['redis', 'PIL', 'torch', 'numpy', 'pydantic', 'typer', 'rich', 'anyio']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
