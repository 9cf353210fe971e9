"""Which flows are there: counted by their listeners' own idle_timeout, found by filters; by another thread when there
are many."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Sequence
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel import flows
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.errors import EngineError
from l4lb.model.sessions import Session, SessionFilter
from tests.support.frames import ACK, FIN, SYN, TCP, UDP, Frame
from tests.support.kernel import CLIENT, SERVICE, Kernel, kernel, on_a_host, request
from tests.support.waiting import wait_until


def connect(made: Kernel, *frames: Frame) -> None:
    """A flow of TCP begins with its second packet."""
    for one in frames:
        made.sent(replace(one, flags=SYN))
        made.sent(replace(one, flags=ACK))


def found(forwarder: KernelForwarder, limit: int = 100, **wanted: object) -> tuple[int, list[Session]]:
    sweep = forwarder.find_flows(SessionFilter(**wanted), limit)  # type: ignore[arg-type]
    assert wait_until(sweep.over)
    return sweep.matched(), sweep.take_found()


def clients(sessions: Sequence[Session]) -> list[str]:
    return sorted(one.client for one in sessions)


def test_flows_count_by_their_own_listeners_idle_timeout() -> None:
    """And a listener that left is kept while it has one, though another's flows would be idle by then."""

    def check() -> None:
        with kernel("xdp", "nat") as made:
            snapshot = made.snapshot()
            idle = {"tcp4": 60.0, "tcp6": 0.2}
            listeners = [replace(one, idle_timeout_s=idle.get(one.name, 0.2)) for one in snapshot.listeners]
            made.forwarder.publish(replace(snapshot, listeners=tuple(listeners)))
            patient, hasty = request(4, TCP), request(6, TCP)
            connect(made, patient, hasty)
            backend = made.goes_to(replace(patient, flags=ACK))
            assert wait_until(lambda: made.forwarder.flows_on("tcp6") == 0)
            assert made.forwarder.flows_on("tcp4") == 1
            made.publish(listeners=False)
            made.publish(listeners=False)
            assert made.forwarder.names() == ["tcp4"]
            assert made.goes_to(replace(patient, flags=ACK)) == backend

    on_a_host(check)


def test_a_new_listener_has_no_flow_of_one_that_had_its_number() -> None:
    def check() -> None:
        with kernel("xdp", "nat") as made:
            made.publish(idle_timeout_s=0.2)
            connect(made, request(4, TCP))
            assert wait_until(lambda: made.forwarder.flows_on("tcp4") == 0)
            made.publish(listeners=False)
            made.publish(listeners=False)
            assert made.forwarder.names() == []
            made.publish(prefix="new ", idle_timeout_s=60.0)
            assert [made.forwarder.flows_on(name) for name in made.forwarder.names()] == [0, 0, 0, 0]
            connect(made, request(4, TCP, 8))
            assert wait_until(lambda: made.forwarder.flows_on("new tcp4") == 1)

    on_a_host(check)


def test_what_a_backend_has_given_up_is_not_there() -> None:
    """Until its client's next packet, which goes to another one."""

    def check() -> None:
        with kernel("xdp", "nat") as made:
            asked = [request(4, TCP, number) for number in range(1, 40)]
            connect(made, *asked)
            of_a = sum(made.goes_to(replace(one, flags=ACK)) == "a" for one in asked)
            assert found(made.forwarder, pool="tcp4", backends=(("tcp4", "a"),))[0] == of_a > 0
            made.forwarder.leave("tcp4", ["a"])
            assert found(made.forwarder, pool="tcp4", backends=(("tcp4", "a"),))[0] == 0
            assert wait_until(lambda: made.forwarder.flows_of("tcp4", "a") == 0)
            assert made.forwarder.flows_on("tcp4") == len(asked) - of_a
            made.publish()  # a is usable again, and its former flows are not its own
            assert found(made.forwarder, pool="tcp4")[0] == len(asked) - of_a

    on_a_host(check)


def test_flows_are_found_by_what_is_known_of_them() -> None:
    def check() -> None:
        with kernel("tcx", "nat") as made:
            asked = [
                request(family, protocol, number) for family in (4, 6) for protocol in (TCP, UDP) for number in (7, 8)
            ]
            connect(made, *asked)
            count, sessions = found(made.forwarder)
            assert count == len(sessions) == len(asked)
            (one,) = found(made.forwarder, listener="tcp6", source=ipaddress.ip_network(CLIENT[6].format(8)))[1]
            assert (one.engine, one.protocol, one.listener, one.pool) == ("kernel", "tcp", "tcp6", "tcp6")
            assert (one.client, one.local) == (f"[{CLIENT[6].format(8)}]:10008", f"[{SERVICE[6]}]:80")
            assert one.backend == made.goes_to(replace(request(6, TCP, 8), flags=ACK))
            assert (one.age_s, one.bytes_up, one.bytes_down) == (None, None, None)
            assert 0 <= one.idle_s < 60
            assert found(made.forwarder, flow_id=one.id) == (
                1,
                [replace(one, idle_s=pytest.approx(one.idle_s, abs=60))],
            )
            for wanted, expected in (
                ({"listener": "udp4"}, 2),
                ({"pool": "udp4"}, 2),
                ({"pool": "udp4", "listener": "tcp4"}, 0),
                ({"source": ipaddress.ip_network("192.0.2.0/29")}, 2),  # .7, of both protocols
                ({"source": ipaddress.ip_network("192.0.2.0/29"), "source_port": 10008}, 0),
                ({"source": ipaddress.ip_network("192.0.2.8/29"), "source_port": 10008}, 2),
                ({"source": ipaddress.ip_network("::/0")}, 8),
                ({"source": ipaddress.ip_network("0.0.0.0/0")}, 4),
                ({"flow_id": one.id ^ 1}, 0),
                ({"backends": (("", "a"), ("", "b"), ("", "c"))}, 8),
                ({"backends": (("tcp4", "a"), ("tcp4", "b"), ("tcp4", "c"))}, 2),
                ({"backends": (("", "nosuch"),)}, 0),
            ):
                assert found(made.forwarder, **wanted)[0] == expected, wanted  # type: ignore[arg-type]
            assert [len(found(made.forwarder, limit)[1]) for limit in (0, 1, 7, 8, 9)] == [0, 1, 7, 8, 8]

    on_a_host(check)


def test_flows_that_are_over_are_not_found() -> None:
    def check() -> None:
        with kernel("xdp", "nat") as made:
            made.publish(idle_timeout_s=60.0)
            ended, open_ = request(4, TCP, 7), request(4, TCP, 8)
            connect(made, ended, open_)
            made.sent(replace(ended, flags=FIN | ACK))
            made.sent(request(4, TCP, 9))  # no flow yet
            assert clients(found(made.forwarder)[1]) == ["192.0.2.8:10008"]
            made.publish(idle_timeout_s=0.01)
            assert wait_until(lambda: found(made.forwarder) == (0, []))

    on_a_host(check)


def test_flows_that_cannot_be_counted_stop_no_publish() -> None:
    """What leaves stays until they can be."""

    def no_count(fd: int, wanted: object) -> object:
        raise OSError(errno.EBUSY, "flows: Device or resource busy")

    def check() -> None:
        with kernel("xdp", "nat") as made, pytest.MonkeyPatch.context() as patch:
            connect(made, request(4, TCP))
            made.publish(listeners=False)
            patch.setattr(flows.kernel_flows, "count_flows", no_count)
            made.publish(prefix="other-")
            with pytest.raises(EngineError, match="flows in the kernel cannot be read"):
                made.forwarder.reap()
            made.publish(prefix="more-")
            assert {"tcp4", "other-tcp4", "more-tcp4"} <= set(made.forwarder.names())

    on_a_host(check)


def test_more_flows_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by another thread, as soon as that takes long; nothing is forgotten by a count of before."""
    monkeypatch.setattr(flows, "QUICK_S", -1.0)

    def check() -> None:
        with kernel("xdp", "nat", flows=1 << 14) as made:
            frame = request(4, TCP)
            for number in range(6000):
                connect(made, replace(frame, source=f"10.{number % 7}.{number >> 8}.{number & 255}"))
            assert made.forwarder.flows_on("tcp4") == 0  # nobody has counted yet
            assert wait_until(lambda: made.forwarder.flows_on("tcp4") == 6000)
            count, sessions = found(made.forwarder, 10_000)
            assert count == len({one.id for one in sessions}) == len({one.client for one in sessions}) == 6000
            made.publish(listeners=False)
            made.forwarder.reap()
            assert "tcp4" in made.forwarder.names()
            assert wait_until(lambda: made.forwarder.reap() or made.forwarder.names() == ["tcp4"])

    on_a_host(check)
