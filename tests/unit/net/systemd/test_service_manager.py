"""Which unit a process is in. What systemd says of it: tests/scenarios/test_restarted.py."""

from __future__ import annotations

import os

import pytest

from l4lb.net.systemd.sd_notify import Notifier
from l4lb.net.systemd.service_manager import kept_before, unit_of

CGROUPS = {
    "0::/system.slice/l4lb.service": ("l4lb.service",),
    "0::/system.slice/system-l4lb.slice/l4lb@edge.service": ("l4lb@edge.service",),
    "0::/system.slice/l4lb.service/inner": ("l4lb.service",),
    "12:pids:/system.slice/x.service\n1:name=systemd:/system.slice/l4lb.service\n0::/": ("l4lb.service",),
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/l4lb.service": ("--user", "l4lb.service"),
    "0::/user.slice/user-1000.slice/user@1000.service/init.scope": (),
    "0::/user.slice/user-0.slice/session-1.scope": (),
    "0::/": (),
    "": (),
}


@pytest.mark.parametrize("cgroup", CGROUPS)
def test_the_unit_of_a_process(cgroup: str) -> None:
    assert unit_of(cgroup) == CGROUPS[cgroup]


@pytest.mark.parametrize("names", ["web", "l4lb-state", "web:l4lb-queue", ""])
def test_sockets_that_are_not_what_was_kept_stay_where_they_are(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(names.count(":") + 1))
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    assert kept_before(Notifier()) is None


def test_a_count_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "two")
    with pytest.raises(OSError, match='LISTEN_FDS is "two"'):
        kept_before(Notifier())
