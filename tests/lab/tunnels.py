"""The backends' ends of tunnels. Linux has devices for them where its modules are there; a small program of the tests
works everywhere.

    python -m tests.lab.tunnels PROGRAM      opens it for what comes in by eth0, and stays
"""

from __future__ import annotations

import platform
import signal
import socket
import sys
from pathlib import Path

from tests.lab.processes import Processes
from tests.support.namespaces import Host
from tests.support.programs import run

_SOURCE = Path(__file__).parents[1] / "native" / "decapsulate.bpf.c"
_DRIVER_MODE = 1 << 2  # XDP_FLAGS_DRV_MODE of linux/if_link.h


def build(directory: Path) -> Path:
    """The object file."""
    made = directory / "decapsulate.o"
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    run("clang", "-target", "bpf", "-O2", "-g", headers, "-c", str(_SOURCE), "-o", str(made))
    return made


def open_tunnel(processes: Processes, host: Host, name: str, program: Path) -> None:
    processes.start(host, f"{name}-tunnel", sys.executable, "-m", "tests.lab.tunnels", str(program))


def _stay(image: Path) -> None:
    from l4lb._native import kernel

    program, _ = kernel.load(image.read_bytes(), "decapsulate", {}, {})
    link = program.attach(socket.if_nametoindex("eth0"), kernel.ATTACH_XDP, _DRIVER_MODE)
    signal.pause()
    del link  # until this process ends


if __name__ == "__main__":
    _stay(Path(sys.argv[1]))
