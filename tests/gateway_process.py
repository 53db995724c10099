"""A scripted gateway as a process of its own, to be killed and frozen.

    python -m tests.gateway_process PORT PAUSE_S REMIND_S

serves the answer of `scripted_gateway`. A call that starts a request is silent for PAUSE_S after
the first tokens, but for a reminder every REMIND_S. Each call is a line on standard output.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from glm4v.v1 import inference_pb2 as pb
from tests.scripted_gateway import GenerationEvents, ScriptedGateway, serving, whole

ROOT = Path(__file__).resolve().parents[1]
SENT = 7  # events before the pause
REMINDER = pb.GenerationEvent(progress=pb.Progress(stage=pb.STAGE_RUNNING, unchanged=True))


class PausingGateway(ScriptedGateway):
    """Pauses in the middle of each answer that it starts, and in none that it goes on with."""

    def __init__(self, pause_s: float, remind_s: float) -> None:
        super().__init__([])
        self._pause_s, self._remind_s = pause_s, remind_s

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        say("generate")
        events = whole(request.request_id)
        for event in chain(events[:SENT], self._pause(context), events[SENT:]):
            yield pb.GenerateResponse(event=event)

    def Attach(self, request: pb.AttachRequest, context: Any) -> Iterator[pb.AttachResponse]:
        say("attach")
        return super().Attach(request, context)

    def _pause(self, context: Any) -> GenerationEvents:
        now = time.monotonic()
        end, reminder = now + self._pause_s, now + self._remind_s
        while context.is_active() and (now := time.monotonic()) < end:
            time.sleep(0.01)
            if now >= reminder:
                reminder = now + self._remind_s
                yield REMINDER


@contextmanager
def gateway_process(
    *, pause_s: float, remind_s: float = 1000.0, port: int = 0
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """One that serves: where it listens, and the process, which is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.gateway_process", str(port), str(pause_s), str(remind_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1], process
        finally:
            process.kill()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    port, pause_s, remind_s = sys.argv[1:]
    with serving(PausingGateway(float(pause_s), float(remind_s)), int(port)) as (target, _):
        say(f"serving on {target}")
        sys.stdin.read()  # until whoever started it is gone
