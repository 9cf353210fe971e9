from __future__ import annotations

import resource
from pathlib import Path

import pytest

from l4lb.net.cpus import quota_cpus, usable_cpus
from l4lb.net.limits import raise_file_limit, sessions_for


def test_sessions_follow_from_descriptors() -> None:
    assert sessions_for(20_000) == 9744
    assert sessions_for(64) == 16
    assert sessions_for(1) == 1
    assert sessions_for(resource.RLIM_INFINITY) == 0


def test_the_limit_is_raised_to_the_hard_one() -> None:
    assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_quota(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota_cpus(tmp_path) == expected
    assert 1 <= len(usable_cpus(tmp_path)) <= max(1, expected + 1)
