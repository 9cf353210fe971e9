"""A restart that cannot keep the sessions: they stay, and nothing is left with the service manager."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import LoadBalancer
from l4lb.control.process import restart
from l4lb.control.process.host import Host
from l4lb.control.process.restart import TRIAL, is_trial
from l4lb.errors import UpgradeError
from l4lb.net.systemd import service_manager
from l4lb.net.systemd.sd_notify import Notifier
from tests.support.balancing import address_of, make_config
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.managing import Manager, managing
from tests.support.peers import connect, echo, read_exactly, serving

WILL = [sys.executable, "-c", ""]
WILL_NOT = [sys.executable, "-c", "import sys; sys.exit('web.bind: something is wrong')"]


@contextlib.contextmanager
def managed(tmp_path: Path, backend: str, command: list[str]) -> Iterator[tuple[LoadBalancer, Manager, list[str]]]:
    """A service whose next process is `command`, its manager, and the reasons for which sessions were not kept."""
    with managing(tmp_path) as manager:
        host = Host(notifier=Notifier.from_environment(manager.environment()))
        host.successor.command = command
        with LoadBalancer(make_config([backend]), host=host) as balancer:
            reasons: list[str] = []
            balancer.plane.events.subscribe(
                lambda event: reasons.append(str(event.fields["reason"])) if event.kind == "sessions_not_kept" else None
            )
            manager.wait_for("READY")
            yield balancer, manager, reasons


@pytest.mark.parametrize(("command", "reason"), [(WILL, "does not answer"), (WILL_NOT, "something is wrong")])
def test_all_goes_on_here(command: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager does not say that it has them, or no process would start."""
    monkeypatch.setattr(restart, "restarts_and_keeps", lambda: True)
    monkeypatch.setattr(service_manager, "_KEEPS_WITHIN_S", 0.2)
    with serving(echo) as backend, managed(tmp_path, backend.address, command) as (balancer, manager, reasons):
        manager.deaf = True
        with connect(address_of(balancer)) as sock:
            for turn in range(3):
                sock.sendall(b"hello")
                assert read_exactly(sock, 5) == b"hello"
                assert balancer.run(balancer.plane.keep_for_restart()) is False
                assert len(reasons) == turn + 1
                assert reason in reasons[-1]
            with connect(address_of(balancer)) as new:
                new.sendall(b"hello")
                assert read_exactly(new, 5) == b"hello"
        assert manager.count("FDSTORE") == manager.count("FDSTOREREMOVE") == (6 if command is WILL else 0)


def test_sessions_of_udp_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "restarts_and_keeps", lambda: True)
    monkeypatch.setattr(service_manager, "_KEEPS_WITHIN_S", 0.2)
    with serving_udp() as server, managing(tmp_path) as manager:
        manager.deaf = True
        host = Host(notifier=Notifier.from_environment(manager.environment()))
        host.successor.command = WILL
        config = make_config([server.address], listener={"protocol": "udp"})
        with LoadBalancer(config, host=host) as balancer:
            host_, _, port = address_of(balancer).rpartition(":")
            with UdpClient((host_, int(port))) as client:
                assert client.ask(b"one") == b"one"
                assert balancer.run(balancer.plane.keep_for_restart()) is False
                assert client.ask(b"two") == b"two"
        assert len(server.clients) == 1


def test_without_a_manager_or_a_restart_nothing_is_tried(tmp_path: Path) -> None:
    with serving(echo) as backend:
        with LoadBalancer(make_config([backend.address])) as balancer:
            assert balancer.run(balancer.plane.keep_for_restart()) is False
        with managed(tmp_path, backend.address, WILL_NOT) as (balancer, manager, reasons):
            assert balancer.run(balancer.plane.keep_for_restart()) is False
            assert (reasons, manager.count("FDSTORE")) == ([], 0)


def test_a_trial_is_of_one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_trial(1) is False
    monkeypatch.setenv(TRIAL, "1")
    assert is_trial(1) is True
    assert is_trial(1) is False, "what it starts is none"
    monkeypatch.setenv(TRIAL, "2")
    with pytest.raises(UpgradeError, match="another version"):
        is_trial(1)
