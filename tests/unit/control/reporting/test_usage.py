"""What the process uses, against what the kernel says of it."""

from __future__ import annotations

import os
import resource
import time

import pytest

from l4lb.control.reporting import usage as module
from l4lb.control.reporting.usage import ProcessUsage


def test_it_is_what_the_kernel_says() -> None:
    reader = ProcessUsage()
    before = resource.getrusage(resource.RUSAGE_SELF)
    usage = reader.read()
    assert usage is not None
    after = resource.getrusage(resource.RUSAGE_SELF)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before.ru_utime + before.ru_stime - 2 * tick <= usage.cpu_s <= after.ru_utime + after.ru_stime + 2 * tick
    assert 0 < usage.memory_bytes <= after.ru_maxrss * 1024 + (1 << 20)  # the kernel counts in batches
    assert usage.memory_bytes < usage.virtual_bytes
    assert usage.threads == len(os.listdir("/proc/self/task"))
    assert usage.started_at < time.time()


def test_the_ratio_is_of_the_latest_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    reader = ProcessUsage()
    first = reader.read()
    assert first is not None
    assert first.cpu_ratio == 0, "there is nothing to compare with"
    for _ in range(20):
        reader.sample()
        now += 1.0
    busy_until = time.process_time() + 0.3
    while time.process_time() < busy_until:
        pass
    later = reader.read()
    assert later is not None
    assert 0.02 < later.cpu_ratio < 0.1, "0.3 s within the window of 10 s"


def test_without_a_descriptor_it_is_unknown_and_comes_back() -> None:
    reader = ProcessUsage()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert reader.read() is None
        reader.sample()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert reader.read() is not None
