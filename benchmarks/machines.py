"""What a process costs, and what machine it ran on. All from /proc (proc(5)), so that every peer is measured alike."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import resource
import subprocess
from pathlib import Path

from benchmarks import newer

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of all threads of a process, from the scheduler's own clock.

    /proc/PID/task/*/schedstat counts nanoseconds; /proc/PID/stat only ticks, and is read where the former is missing.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    if total:
        return total / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def cpu_seconds_of_tree(pid: int) -> float:
    """Of a process and all its children that live; 0 for pid 0."""
    if pid == 0:
        return 0.0
    children: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    return cpu_seconds(pid) + sum(cpu_seconds_of_tree(int(child)) for child in children)


def cpu_seconds_spent_here() -> float:
    """Of this process and its children that have ended: the clients that it started."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@functools.cache
def _softirq_threads() -> tuple[int, ...]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # others may end meanwhile
            if path.read_text().startswith("ksoftirqd/"):
                pids.append(int(path.parent.name))
    return tuple(pids)


def cpu_seconds_of_softirqs() -> float:
    """Of the kernel's threads that process packets when there are many."""
    return sum(cpu_seconds(pid) for pid in _softirq_threads())


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other: the `Private_*` lines of /proc/PID/smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(count) for count in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)) * 1024


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    return (done.stdout + done.stderr).strip().splitlines()[0]


def machine() -> list[str]:
    """CPU, kernel and versions, one line each."""
    info = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    model = found[1] if found else platform.machine()
    return [
        f"{len(os.sched_getaffinity(0))} CPUs, {model}",
        f"Linux {platform.release()}, congestion control "
        + Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        f"Python {platform.python_version()}",
        f"the other load balancers are those of {newer.origin()}",
        *(_first_line(*words, "-v") for name in ("haproxy", "nginx") if (words := newer.find(name))),
        *(_first_line(*words, "--version") for name in ("dnsdist",) if (words := newer.find(name))),
        _first_line("wrk", "-v").split("[")[0],
        _first_line("iperf3", "--version"),
    ]
