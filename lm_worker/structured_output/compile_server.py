"""Compiles response formats in processes that may crash.

Usage: python -m lm_worker.structured_output.compile_server MODEL CONTROL

Even for a short format the grammar library may take any time and memory, and it was seen to crash
its process (1.9.1). So each format is compiled in a process of its own, forked from this server,
which has read the vocabulary, has no second thread, and does nothing else.

worker ── socket per format ──► server ── fork ──► guard ── fork ──► compiler
                                                   kills, replies    limits itself

CONTROL is the descriptor of a socket. The server exits when the other end closes. A guard kills
its compiler when the worker closes the format's socket.
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
from lm_worker.structured_output.grammar import compile_grammar, read_vocabulary

READY = b"r"
_MAX_REQUEST = 2**20  # bytes
_MAX_REPLY = 2**16
_MIN_STACK = 2**18
_DEFAULT_STACK = 2**21  # of a thread if the limit is infinite
_NICE = 10  # lower priority than the model's threads
_NO_MEMORY = b"memory allocation of"  # how Rust aborts
_Compile = Callable[[OutputFormat], object]


def serve(control: socket.socket, compile_: _Compile) -> None:
    """Serve until the other end of `control` closes; `compile_` raises InvalidRequest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards are not waited for
    control.sendall(READY)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as connection, contextlib.suppress(OSError):
            if os.fork() == 0:  # OSError: no process left; the worker gets no reply
                with _exiting():
                    control.close()
                    _guard(connection, compile_)


@contextlib.contextmanager
def _exiting() -> Any:
    """Exit a forked process at the end of the block, whatever happens."""
    try:
        yield
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _guard(connection: socket.socket, compile_: _Compile) -> None:
    """Run one compiler process and reply with its outcome."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("rb") as lines:
        request = json.loads(lines.readline(_MAX_REQUEST))
    reply_out, reply_in = os.pipe()
    stderr_out, stderr_in = os.pipe()
    compiler = os.fork()
    if compiler == 0:
        with _exiting():
            connection.close()
            os.dup2(stderr_in, sys.stderr.fileno())
            os.write(reply_in, json.dumps(_compile_limited(request, compile_)).encode())
    os.close(reply_in)
    os.close(stderr_in)
    watched: list[Any] = [reply_out, connection]
    ready, _, _ = select.select(watched, [], [], request["wall_s"])
    reply = os.read(reply_out, _MAX_REPLY) if reply_out in ready else b""
    if reply or reply_out not in ready:
        os.kill(compiler, signal.SIGKILL)  # it replied, timed out, or the worker left
    _, status = os.waitpid(compiler, 0)
    if not reply:
        outcome = _outcome(os.WTERMSIG(status), os.read(stderr_out, _MAX_REPLY))
        reply = json.dumps(outcome).encode()
    with contextlib.suppress(BrokenPipeError):  # the worker left
        connection.sendall(reply)


def _outcome(signal_number: int, stderr: bytes) -> dict[str, Any]:
    """The outcome of a compiler that exited without a reply."""
    if signal_number == signal.SIGPROF:
        return {"outcome": "cpu"}
    if signal_number == signal.SIGKILL:
        return {"outcome": "wall"}
    if _NO_MEMORY in stderr:
        return {"outcome": "memory"}
    name = signal.Signals(signal_number).name if signal_number else "exit"
    return {"outcome": "crashed", "message": name}


def _compile_limited(request: dict[str, Any], compile_: _Compile) -> dict[str, Any]:
    """Compile within limits, on half the stack of the worker's threads."""
    reply: dict[str, Any] = {"outcome": "memory"}
    output_format = OutputFormat(request["kind"], request["text"])

    def work() -> None:
        before = _peak_bytes()
        try:
            compile_(output_format)
            reply.update(outcome="compiled", bytes=_peak_bytes() - before)
        except InvalidRequest as error:
            reply.update(outcome="refused", message=str(error))
        except MemoryError:
            pass
        except BaseException as error:
            reply.update(outcome="crashed", message=type(error).__name__)

    threading.stack_size(_half_stack())
    thread = threading.Thread(target=work)
    _set_limits(request)
    with contextlib.suppress(MemoryError, RuntimeError):  # out of memory for a thread
        thread.start()
        thread.join()
    return reply


def _set_limits(request: dict[str, Any]) -> None:
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux: the first victim of the OOM killer
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):  # Linux; elsewhere only time is limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + request["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])


def _half_stack() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    whole = _DEFAULT_STACK if soft == resource.RLIM_INFINITY else soft
    return max(whole // 2, _MIN_STACK) // 4096 * 4096


def _peak_bytes() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def main() -> None:
    """Compile for one checkpoint."""
    model_dir, control = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    vocabulary = read_vocabulary(model_dir, read_spec(model_dir))

    def compile_(output_format: OutputFormat) -> None:
        compile_grammar(output_format, vocabulary).compute_bitmask()

    serve(control, compile_)


if __name__ == "__main__":
    main()
