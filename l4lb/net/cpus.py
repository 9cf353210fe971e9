"""How many CPUs this process may really use: its affinity, bounded by the cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def quota_cpus(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The cgroup's CPU quota in CPUs, version 2 or 1; infinite when there is none."""
    quota, _, period = _read(root / "cpu.max").partition(" ")
    if not quota:
        quota = _read(root / "cpu/cpu.cfs_quota_us")
        period = _read(root / "cpu/cpu.cfs_period_us")
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        return math.inf


def usable_cpus(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """The CPUs to run workers on, one each: those of the affinity mask, as many as the quota pays for (rounded up)."""
    allowed = sorted(os.sched_getaffinity(0))
    quota = quota_cpus(root)
    return allowed if math.isinf(quota) else allowed[: max(1, math.ceil(quota))]
