"""Resources that this process uses: processor time, memory, threads."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import psutil

WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu_s`: processor time of all threads since the start; `cpu_ratio`: per second of the last `WINDOW_S`, 1 is a
    whole CPU; `memory_bytes` are resident, `virtual_bytes` mapped; `started_at` in seconds since 1970."""

    cpu_s: float
    cpu_ratio: float
    memory_bytes: int
    virtual_bytes: int
    threads: int
    started_at: float


class ProcessUsage:
    """Reads /proc with psutil, about 100 us each time. Control thread only."""

    def __init__(self) -> None:
        self._process: psutil.Process | None = None
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self) -> None:
        """Called about once a second."""
        now, usage = time.monotonic(), self.read()
        if usage is None:
            return
        self._samples.append((now, usage.cpu_s))
        while now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def read(self) -> Usage | None:
        """None when it cannot be read: no /proc, no descriptor left."""
        try:
            self._process = self._process or psutil.Process()
            with self._process.oneshot():
                times, memory = self._process.cpu_times(), self._process.memory_info()
                threads, started_at = self._process.num_threads(), self._process.create_time()
        except (psutil.Error, OSError):
            return None
        cpu_s = times.user + times.system
        return Usage(cpu_s, self._ratio(cpu_s), memory.rss, memory.vms, threads, started_at)

    def _ratio(self, cpu_s: float) -> float:
        """0 before there is a sample to compare with."""
        if not self._samples or (elapsed_s := time.monotonic() - self._samples[0][0]) <= 0:
            return 0.0
        return max(cpu_s - self._samples[0][1], 0.0) / elapsed_s
