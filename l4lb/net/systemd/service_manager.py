"""systemd's side of a restart: whether one is under way, and what it keeps for the process that it starts next
(FileDescriptorStoreMax= in systemd.service(5), FDSTORE=1 in sd_notify(3)). Blocking, bounded in time; any thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from l4lb.net.stored import QUEUE, STATE, Stored
from l4lb.net.systemd.inherited import FIRST_INHERITED_FD, inherited_names
from l4lb.net.systemd.sd_notify import Notifier

_ANSWERS_WITHIN_S = 3.0
_KEEPS_WITHIN_S = 3.0


def unit_of(cgroup: str) -> tuple[str, ...]:
    """What `systemctl` is to be asked about, by a process's /proc/PID/cgroup: ("l4lb.service",), or ("--user", ...).
    Empty: the process is in no service."""
    for path in re.findall(r"^\d+:(?:name=systemd)?:(/.*)$", cgroup, re.MULTILINE):
        units = [part for part in path.split("/") if part.endswith(".service")]
        if units and not units[-1].startswith("user@"):
            return ("--user", units[-1]) if units[0].startswith("user@") else (units[-1],)
    return ()


def _systemctl(*arguments: str) -> str:
    """Empty when it cannot be asked: there is none, no bus, no answer in time."""
    environment = {**os.environ, "LC_ALL": "C"}
    command = ["systemctl", "--no-ask-password", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWERS_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def restarts_and_keeps() -> bool:
    """Whether systemd ends this process to start it again, and keeps what it is given until then."""
    unit = unit_of(Path("/proc/self/cgroup").read_text())
    if not unit:
        return False
    jobs = [line.split() for line in _systemctl("list-jobs", "--no-legend", "--plain", *unit).splitlines()]
    if not any(job[1:3] == [unit[-1], "restart"] for job in jobs):
        return False
    keeps = _systemctl("show", "--property=FileDescriptorStoreMax", "--value", *unit).strip()
    return keeps.isdigit() and int(keeps) >= 2


def keep(notifier: Notifier, kept: Mapping[str, int]) -> None:
    """Give these to systemd for the next process. OSError, TimeoutError when it does not take them; then it has none of
    them."""
    try:
        for name, fd in kept.items():  # without a watch on them: the other end of a queue closes soon
            notifier.send({"FDSTORE": 1, "FDNAME": name, "FDPOLL": 0}, [fd])
        notifier.wait_until_heard(_KEEPS_WITHIN_S)
    except BaseException:
        forget(notifier, kept)
        raise


def forget(notifier: Notifier, kept: Mapping[str, int]) -> None:
    for name in kept:
        with contextlib.suppress(OSError):
            notifier.send({"FDSTOREREMOVE": 1, "FDNAME": name})


def kept_before(notifier: Notifier) -> Stored | None:
    """What the process before this one gave to systemd, once; it keeps nothing of it any more. None: nothing, or what
    that process took back. OSError when what has these names is something else (EBADF, ENOTSOCK), or the environment
    makes no sense (EINVAL)."""
    passed = enumerate(inherited_names(), FIRST_INHERITED_FD)
    found = {name: fd for fd, name in passed if name in (STATE, QUEUE)}
    if found.keys() != {STATE, QUEUE}:
        return None
    forget(notifier, found)
    for fd in found.values():
        os.set_inheritable(fd, False)
    stored = Stored(found[STATE], socket.socket(fileno=found[QUEUE]))
    if not stored.is_empty:
        return stored
    stored.close()
    return None
