"""What a process costs, and what machine it ran on. All from /proc (proc(5)), so that every peer is measured alike."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

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
        _first_line("haproxy", "-v"),
        _first_line("nginx", "-v"),
        _first_line("wrk", "-v").split("[")[0],
        _first_line("iperf3", "--version"),
    ]
