"""sd_notify(3) as the manager hears it, and as systemd-notify(1) speaks it."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest

from l4lb.net.systemd.sd_notify import Notifier, for_successor, monotonic_us
from tests.support.managing import managing
from tests.support.programs import require, without_preload


@pytest.mark.parametrize("abstract", [False, True])
def test_it_speaks_as_systemds_own_program_does(abstract: bool, tmp_path: Path) -> None:
    with managing(tmp_path, abstract=abstract) as manager:
        command = [require("systemd-notify"), "--ready", "--status=all up"]
        subprocess.run(command, env={**without_preload(), **manager.environment()}, check=True)
        Notifier.from_environment(manager.environment()).notify(READY=1, STATUS="all up")
        manager.wait_for("READY", count=2)
        theirs, ours = (one.fields for one in manager.told)
    assert theirs == ours == {"READY": "1", "STATUS": "all up"}


def test_the_clock_is_the_managers() -> None:
    before = monotonic_us()
    with open("/proc/uptime", encoding="ascii") as uptime:
        assert abs(float(uptime.read().split()[0]) - before / 1e6) < 60
    assert monotonic_us() >= before


WATCHDOGS = {
    "none": ({}, 0.0),
    "for whoever it is": ({"WATCHDOG_USEC": "30000000"}, 30.0),
    "for this process": ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
    "for another": ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0.0),
    "nonsense": ({"WATCHDOG_USEC": "soon"}, 0.0),
}


@pytest.mark.parametrize("case", WATCHDOGS)
def test_whose_life_the_watchdog_is_about(case: str) -> None:
    environment, seconds = WATCHDOGS[case]
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/x", **environment}).watchdog_s == seconds
    assert Notifier.from_environment(environment).watchdog_s == 0.0, "nobody to tell"


def test_the_watchdog_of_the_process_before_is_the_successors() -> None:
    environment = {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1", "NOTIFY_SOCKET": "/run/x"}
    assert Notifier.from_environment(for_successor(environment)).watchdog_s == 0.5


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1234", "/" + "x" * 200])
def test_a_manager_that_is_not_there_is_told_once_in_the_log(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(address)
    with caplog.at_level(logging.WARNING, "l4lb"):
        logging.getLogger("l4lb").propagate = True
        for _ in range(3):
            notifier.notify(READY=1)
    assert [record.message for record in caplog.records] == ["service manager not told"]


def test_without_a_manager_there_is_silence() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier
    notifier.notify(READY=1)


def test_descriptors_go_with_it_and_it_waits_until_all_is_read(tmp_path: Path) -> None:
    read, write = os.pipe()
    with managing(tmp_path) as manager:
        notifier = Notifier.from_environment(manager.environment())
        notifier.send({"FDSTORE": 1, "FDNAME": "x"}, [read, write])
        notifier.wait_until_heard(20)
        assert [(one.fields, one.fds) for one in manager.told] == [({"FDSTORE": "1", "FDNAME": "x"}, 2)]
        manager.deaf = True
        with pytest.raises(TimeoutError):
            notifier.wait_until_heard(0.05)
    with pytest.raises(OSError, match=r"refused|No such file"):
        notifier.send({"READY": 1})
    os.close(read)
    os.close(write)
