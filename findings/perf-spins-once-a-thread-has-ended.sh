#!/usr/bin/env bash
# perf 6.1.176 (Debian 12: linux-perf 6.1.176-1): once a thread of a profiled process has ended, `perf record -p` takes up to
# two cores until it is stopped.
#
# One would expect: perf sleeps between its samples, however many threads of the process have come and gone.
# Seen on 2026-11-30 (Linux 6.18, x86-64), over 3 s: 0.00 s of a core while all threads live, and up to 3.8 s after one has
# ended (1.2 s beside other work on 2 cores), half of it in each of perf's two threads. `perf record -a` does not do this: it
# holds one event for each processor, and none of a thread. The profile has no sign of it, but the process that is measured
# has fewer cores: this project's server gave 32 tokens/s beside it in place of 144.
# Why: the event of a thread that has ended reports POLLHUP for ever. perf clears the events that it waits for in that entry,
# but leaves the file descriptor there, and poll() reports POLLHUP whether it was asked for or not. So it has been since
# commit 59b4412f27f1 of Linux ("libperf: Avoid internal moving of fdarray fds", released with 5.9). It is known: a patch
# of 2026, "perf record: fix poll storm when monitored threads exit", was written against 7.2-rc1. It was not tried here.
# Who meets it: whoever profiles a server that ends threads, by `-p`. Do it by `-a`, and keep the process's samples alone.
#
# Needs Debian 12, with the libraries of linux-perf, and rights to sample all processes. The script says what is missing.
set -euo pipefail
version=6.1.176-1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q -o APT::Sandbox::User=root "linux-perf=$version" || {
    echo "linux-perf $version is not in the package lists: apt-get update" >&2
    exit 3
}
dpkg -x ./*.deb .
if ldd usr/bin/perf | grep "not found" >&2; then
    echo "libraries of perf are missing: apt install linux-perf" >&2
    exit 3
fi
usr/bin/perf record -q -a -e cpu-clock -o trial -- true 2>errors || {
    cat errors >&2
    echo "perf may not sample all processes: be root, or sysctl kernel.perf_event_paranoid=0" >&2
    exit 3
}

cat >process.py <<'PYTHON'
import sys
import threading
import time

threading.Thread(target=time.sleep, args=(float(sys.argv[1]),), daemon=True).start()
print("started", flush=True)
time.sleep(60)
PYTHON

cat >seen.py <<'PYTHON'
import os
import signal
import subprocess
import sys
import time

MEASURED_S, ENDS_S, LIVES_S = 3.0, 1.0, 60.0
TICKS = os.sysconf("SC_CLK_TCK")
LITTLE, MUCH = 0.2, 0.6  # seconds of a core; more than 3 where two cores are free
STATED = {
    ("-p", "lives"): lambda used: used < LITTLE,
    ("-p", "has ended"): lambda used: used > MUCH,
    ("-a", "has ended"): lambda used: used < LITTLE,
}


def core_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measured(option, thread):
    seconds = ENDS_S if thread == "has ended" else LIVES_S
    process = subprocess.Popen([sys.executable, "process.py", str(seconds)], stdout=subprocess.PIPE)
    process.stdout.readline()
    whom = ["-a"] if option == "-a" else ["-p", str(process.pid)]
    perf = subprocess.Popen(
        ["usr/bin/perf", "record", "-F", "99", "-e", "cpu-clock", "-o", "data", *whom],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(ENDS_S + 1)
    before = core_seconds(perf.pid)
    time.sleep(MEASURED_S)
    used = core_seconds(perf.pid) - before
    perf.send_signal(signal.SIGINT)
    said = perf.communicate()[1]
    process.kill()
    process.wait()
    woken = next(line for line in said.splitlines() if "Woken up" in line)
    print(f"{option}, a thread {thread:9}: {used:.2f} s of a core in {MEASURED_S:.0f} s; {woken.strip('[] ')}")
    return used


print(subprocess.run(["usr/bin/perf", "--version"], capture_output=True, text=True).stdout.strip())
other = [key for key, holds in STATED.items() if not holds(measured(*key))]
if other:
    sys.exit(f"not as stated: {other}")
print("as stated")
PYTHON
python3 seen.py
