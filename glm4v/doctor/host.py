"""The host: processor, memory, C++ compiler, Redis."""

import asyncio
import os
import platform
import shutil
from collections.abc import Mapping

from glm4v.doctor.report import EVERY_PROCESS, WORKERS, Missing, Report
from glm4v.doctor.system import System
from glm4v.errors import Glm4vError, Unavailable
from glm4v.host.cpus import usable_cpus

_COMPILERS = ("c++", "g++", "clang++")
_REDIS_URL = "GLM4V_REDIS_URL"


def examine_cpu(system: System, report: Report, probed: Mapping[str, str]) -> None:
    """Note the processor, and what a worker on it computes with (`probed`)."""
    report.add("cpu", f"{_processor(system)}, {usable_cpus()} of {os.cpu_count()} cores usable")
    wanted = system.environment.get("CXX")
    path = system.environment.get("PATH", "")
    names = (wanted,) if wanted else _COMPILERS
    compiler = next((found for name in names if (found := shutil.which(name, path=path))), None)
    report.add("cpu", f"C++ compiler {compiler or 'none'}")
    if compiler is None and probed.get("kernels") == "no kernels":
        what = "no C++ compiler: PyTorch computes, several times slower than the kernels"
        report.advice.append(Missing(what, "sudo apt install g++", WORKERS, "cpu"))


def examine_redis(system: System, report: Report) -> None:
    """Note the Redis that processes would use: that of GLM4V_REDIS_URL, or an embedded one."""
    try:
        url = system.environment.get(_REDIS_URL)
        if url is not None:
            report.add("redis", asyncio.run(_answering(url, system.environment)))
        else:
            report.add("redis", _embedded(system))
    except ModuleNotFoundError as error:
        fix = "pip install 'glm4v-serve[gateway]'"
        report.lack([Missing(f"{error.name} is not installed", fix, EVERY_PROCESS)])
    except Glm4vError as error:
        fix = f"start it, or correct {_REDIS_URL}"
        if isinstance(error, Unavailable) and _REDIS_URL not in system.environment:
            fix = "pip install 'glm4v-serve[gateway]', or sudo apt install redis-server"
        report.add("redis", "none")
        report.lack([Missing(str(error), fix, EVERY_PROCESS)])


async def _answering(url: str, environment: Mapping[str, str]) -> str:
    from glm4v.broker import Connection
    from glm4v.broker.redis_url import with_credentials

    account = (environment.get(f"GLM4V_REDIS_{part}") for part in ("USERNAME", "PASSWORD"))
    connection = Connection(with_credentials(url, *account))
    try:
        await connection.check()
    finally:
        await connection.close()
    return f"the server of {_REDIS_URL} answers"


def _embedded(system: System) -> str:
    from glm4v.local.redis_server import find_server

    program = find_server()
    words = (system.run(str(program), "--version") or "").split()
    number = next((word.removeprefix("v=") for word in words if word.startswith("v=")), "")
    return f"embedded, {program.name} {number}".rstrip()


def _processor(system: System) -> str:
    try:
        text = system.path("proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, "") or platform.machine()
