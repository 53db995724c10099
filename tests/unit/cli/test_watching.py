"""What `glm4v explain` and `glm4v top` print."""

import json
from io import StringIO

from rich.console import Console

from glm4v.broker.deployment_state import DeploymentState
from glm4v.broker.queue_lengths import QueueLength, QueueLengths
from glm4v.broker.timeline import Phase, PhaseName, Timeline
from glm4v.broker.worker_reports import WorkerState
from glm4v.cli.explain import bars
from glm4v.cli.top import Rates, state_object, tables
from glm4v.internal.v1 import journal_pb2, worker_pb2

TIMELINE = Timeline(
    journal_pb2.Job(request_id="r", accepted_ms=1000, prompt_ids=[1, 2]),
    [
        Phase(PhaseName.LANGUAGE_QUEUE, 1000, 2000),
        Phase(PhaseName.PREFILL, 2000, 3000, "lm-a", 1, isolated=True),
        Phase(PhaseName.DECODE, 3000, 5000, "lm-a", 3),
    ],
    journal_pb2.JournalEnd(kind=journal_pb2.END_KIND_LENGTH),
    5000,
    [3000, 4000, 5000],
)


def state(done: int, age_s: float = 0.5) -> DeploymentState:
    report = worker_pb2.WorkerReport(
        queue="lm:m",
        host="node",
        device="cpu",
        description="float32, weights int8 by GPTQ (4 bits) and bfloat16, native kernels",
        running=2,
        done=done,
        kv_blocks_used=1,
        kv_blocks_total=4,
        phase=worker_pb2.WORKER_PHASE_SERVING,
    )
    lengths = QueueLengths(7, 1, QueueLength(5, 3, 2.5), QueueLength(0, 0, 0))
    return DeploymentState({"m": lengths}, [WorkerState("lm-a", report, age_s)])


def printed(renderable: object) -> list[str]:
    console = Console(file=StringIO(), width=120)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_bars_of_phases_lie_where_their_time_was() -> None:
    _, queue, prefill, decode = printed(bars(TIMELINE))
    start = queue.index("█")
    assert queue[start:] == "█" * 10
    assert prefill[start:].startswith(" " * 10 + "█" * 10 + " ")
    assert decode[start:].startswith(" " * 20 + "█" * 20 + " ")
    assert prefill.startswith("prefill (alone)")


def test_the_same_as_json() -> None:
    found = TIMELINE.as_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["end"], found["tokens"], found["total_s"]) == ("length", 4, 4.0)
    assert found["time_to_first_token_s"] == 2.0


def test_rates_are_of_the_time_between_two_readings() -> None:
    rates = Rates()
    rates.update(state(100), 10.0)
    assert rates.of("lm-a") == 0
    rates.update(state(150), 12.0)
    assert rates.of("lm-a") == 25.0
    workers = state_object(state(150), rates)["workers"]
    assert isinstance(workers, list)
    assert (workers[0]["rate"], workers[0]["state"]) == (25.0, "serving")


def test_a_worker_that_restarted_has_no_negative_rate() -> None:
    rates = Rates()
    rates.update(state(100), 10.0)
    rates.update(DeploymentState({}, []), 11.0)
    rates.update(state(5), 12.0)
    assert rates.of("lm-a") == 0


def test_tables_show_backlog_and_silence() -> None:
    lines = printed(tables(state(1, age_s=9), Rates()))
    assert lines[0] == "7 open requests"
    assert any(line.split() == ["m", "language", "3", "2.5", "s", "5"] for line in lines)
    assert any("silent for 9 s" in line and "25%" in line for line in lines)
    assert any("int8 by GPTQ" in line for line in lines)
