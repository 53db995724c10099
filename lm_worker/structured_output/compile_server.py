"""Compiles forms where it harms nobody.

Usage: python -m lm_worker.structured_output.compile_server MODEL CONTROL

For a short form the grammar library may take any time and memory, and it was seen to end its
process (1.9.1). So each form is compiled in a process of its own. It is forked from this one, which
has read the vocabulary, has no second thread, and does nothing else.

worker ── socket for each form ──► server ── fork ──► guard ── fork ──► compiler
                                                      kills, answers    bounds itself

CONTROL is the number of a socket. The server ends when its other side does. A guard whose worker
has gone kills the compiler.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glm4v.checkpoint.spec import read_spec
from glm4v.errors import InvalidRequest
from lm_worker.plan import OutputFormat
from lm_worker.structured_output.forms import compile_form, read_vocabulary

READY = b"r"
_MAX_ORDER = 2**20  # bytes
_MAX_SAID = 2**16
_LEAST_STACK = 2**18
_USUAL_STACK = 2**21  # of a thread where the limit says nothing
_NICE = 10  # the model's threads go first
_NO_MEMORY = b"memory allocation of"  # Rust's last words
_Compile = Callable[[OutputFormat], object]


def serve(control: socket.socket, compile_: _Compile) -> None:
    """Take orders until the other side of `control` is closed; `compile_` raises InvalidRequest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: meant for the worker
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for guards
    control.sendall(READY)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as connection, contextlib.suppress(OSError):
            if os.fork() == 0:  # OSError: no room for a process; the worker sees no answer
                with _leaving():
                    control.close()
                    _guard(connection, compile_)


@contextlib.contextmanager
def _leaving() -> Any:
    """A forked process never goes on with what its parent does."""
    try:
        yield
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _guard(connection: socket.socket, compile_: _Compile) -> None:
    """Have one order carried out, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("rb") as lines:
        order = json.loads(lines.readline(_MAX_ORDER))
    said, says = os.pipe()
    errors, error = os.pipe()
    compiler = os.fork()
    if compiler == 0:
        with _leaving():
            connection.close()
            os.dup2(error, sys.stderr.fileno())
            os.write(says, json.dumps(_carry_out(order, compile_)).encode())
    os.close(says)
    os.close(error)
    watched: list[Any] = [said, connection]
    ready, _, _ = select.select(watched, [], [], order["wall_s"])
    words = os.read(said, _MAX_SAID) if said in ready else b""
    if words or said not in ready:
        os.kill(compiler, signal.SIGKILL)  # it has said all, is too late, or nobody listens
    _, status = os.waitpid(compiler, 0)
    if not words:
        outcome = _outcome(os.WTERMSIG(status), os.read(errors, _MAX_SAID))
        words = json.dumps(outcome).encode()
    with contextlib.suppress(BrokenPipeError):  # nobody listens
        connection.sendall(words)


def _outcome(signal_number: int, last_words: bytes) -> dict[str, Any]:
    """What it means that a compiler ended without a word."""
    if signal_number == signal.SIGPROF:
        return {"outcome": "cpu"}
    if signal_number == signal.SIGKILL:
        return {"outcome": "wall"}
    if _NO_MEMORY in last_words:
        return {"outcome": "memory"}
    name = signal.Signals(signal_number).name if signal_number else "itself"
    return {"outcome": "crashed", "message": name}


def _carry_out(order: dict[str, Any], compile_: _Compile) -> dict[str, Any]:
    """Compile within bounds, on half the stack that the worker's threads have."""
    answer: dict[str, Any] = {"outcome": "memory"}
    form = OutputFormat(order["kind"], order["text"])

    def work() -> None:
        before = _peak_bytes()
        try:
            compile_(form)
            answer.update(outcome="compiled", bytes=_peak_bytes() - before)
        except InvalidRequest as error:
            answer.update(outcome="refused", message=str(error))
        except MemoryError:
            pass
        except BaseException as error:
            answer.update(outcome="crashed", message=type(error).__name__)

    threading.stack_size(_half_stack())
    thread = threading.Thread(target=work)
    _bound(order)
    with contextlib.suppress(MemoryError, RuntimeError):  # no memory for a thread
        thread.start()
        thread.join()
    return answer


def _bound(order: dict[str, Any]) -> None:
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux: who has to die first when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):  # Linux: elsewhere time is the only bound
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + order["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.setitimer(signal.ITIMER_PROF, order["cpu_s"])


def _half_stack() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    whole = _USUAL_STACK if soft == resource.RLIM_INFINITY else soft
    return max(whole // 2, _LEAST_STACK) // 4096 * 4096


def _peak_bytes() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def main() -> None:
    """Serve the forms of one checkpoint."""
    model_dir, control = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    vocabulary = read_vocabulary(model_dir, read_spec(model_dir))

    def compile_(form: OutputFormat) -> None:
        compile_form(form, vocabulary).compute_bitmask()

    serve(control, compile_)


if __name__ == "__main__":
    main()
