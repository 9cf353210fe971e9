"""How many CPUs this process may use: its affinity, bounded by the quotas of its cgroup and the cgroups above it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _quota(text: str, period: str) -> float:
    """`text` of `period` microseconds, in CPUs; infinite when it is ``max``, ``-1`` or nothing."""
    try:
        return int(text) / int(period) if int(text) > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        return math.inf


def _directories(own: str) -> Iterator[tuple[int, PurePosixPath]]:
    """(version, directory below the root) of the cgroups that bound CPU time: this process's own, then those above.

    Lines of /proc/self/cgroup, cgroups(7): ``0::/path`` for version 2, ``4:cpu,cpuacct:/path`` for version 1.
    """
    for line in own.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or "cpu" in controllers.split(","):
            relative = PurePosixPath(path.lstrip("/"))
            for directory in (relative, *relative.parents):
                yield 2 if number == "0" else 1, directory


def quota_cpus(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """The tightest CPU quota of this process, in CPUs, cgroups version 2 or 1; infinite when there is none.

    In a container the paths of /proc/self/cgroup may lie outside of the mount; the mount's root always counts.
    """
    found = [math.inf]
    for version, directory in (*_directories(_read(own)), (2, PurePosixPath()), (1, PurePosixPath())):
        if version == 2:
            quota, _, period = _read(root / directory / "cpu.max").partition(" ")
        else:
            quota = _read(root / "cpu" / directory / "cpu.cfs_quota_us")
            period = _read(root / "cpu" / directory / "cpu.cfs_period_us")
        found.append(_quota(quota, period))
    return min(found)


def usable_cpus(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> list[int]:
    """The CPUs for workers, one each: from the affinity mask, as many as the quota allows (rounded up)."""
    allowed = sorted(os.sched_getaffinity(0))
    quota = quota_cpus(root, own)
    return allowed if math.isinf(quota) else allowed[: max(1, math.ceil(quota))]


def worker_count(wanted: int | str) -> int:
    """``auto``: a worker for each usable CPU."""
    return int(wanted) if wanted != "auto" else len(usable_cpus())
