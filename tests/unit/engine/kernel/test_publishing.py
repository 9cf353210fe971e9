"""What publishing leaves behind, and what stays as it was when it fails: tables, listeners, addresses, devices."""

from __future__ import annotations

import errno
import gc
import re
import socket
from array import array
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.engines import Engines
from l4lb.engine.kernel import layout, slots, starting
from l4lb.engine.kernel.attaching import images
from l4lb.errors import ConfigError
from l4lb.model.snapshot import KernelTerms, ListenerSpec, Snapshot
from l4lb.net.ranges import packed_ranges
from tests.support.frames import ACK, SYN, TCP, Frame
from tests.support.kernel import (
    BACKENDS,
    DROPPED,
    LINKS,
    PASSED,
    PROGRAMS,
    PROTOCOLS,
    SERVICE,
    SLOTS,
    Kernel,
    expected,
    kernel,
    on_a_host,
    request,
)
from tests.support.namespaces import set_sysctl

ROOM = 1 << 12  # slots, of the forwarder that tests make
EVERY = array("I", [0]) * ROOM  # a table that takes all of them


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left may be overwritten at once: no packet is under way."""
    monkeypatch.setattr(slots, "_GRACE_S", 0.0)


def two_on_one_pool(made: Kernel, table: array[int]) -> Snapshot:
    """Two listeners of TCP, at different ports."""
    snapshot = made.snapshot(table)
    pool = next(one for one in snapshot.pools if one.name == "tcp4")
    first = next(one for one in snapshot.listeners if one.name == "tcp4")
    second = replace(first, name="second", bind=(replace(first.bind[0], port=81),))  # type: ignore[type-var]
    return replace(snapshot, pools=(pool,), listeners=(first, second))


def has_all_room(made: Kernel) -> bool:
    """Whether every slot is free but for those of the table that is there."""
    made.publish(listeners=False)
    try:
        made.forwarder.publish(two_on_one_pool(made, EVERY))
    except ConfigError:
        return False
    return True


def test_two_listeners_share_a_table_and_reloads_leak_nothing() -> None:
    """200 tables would take the room three times."""

    def check() -> None:
        with kernel("xdp", "nat") as made:
            table = SLOTS
            for _ in range(200):
                table = array("I", [(slot + 1) % 3 for slot in table])
                made.forwarder.publish(two_on_one_pool(made, table))
            for port in (80, 81):
                asked = replace(request(4, TCP), destination_port=port)
                assert made.goes_to(asked) == made.goes_to(replace(asked, flags=ACK)) in LINKS
            assert [made.forwarder.listener(name).flows for name in ("tcp4", "second")] == [1, 1]
            assert has_all_room(made)

    on_a_host(check)


def test_tables_may_change_faster_than_programs_leave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left counts as read for an hour, so that room comes of waiting for programs alone."""
    monkeypatch.setattr(slots, "_GRACE_S", 3600.0)

    def check() -> None:
        with kernel("tcx", "nat") as made:
            known, table = request(4, TCP), SLOTS
            first = made.goes_to(known)
            for _ in range(100):  # those of four pools: there is room for 16
                table = array("I", [(slot + 1) % 3 for slot in table])
                made.publish(table)
                assert made.goes_to(replace(known, flags=ACK)) == first
            moved = dict(zip("abc", "bca", strict=True))  # 100 times by one is once
            assert made.goes_to(request(4, TCP, 9)) == moved[expected(request(4, TCP, 9), {})]

    on_a_host(check)


def test_a_publish_that_does_not_fit_changes_nothing() -> None:
    def check() -> None:
        with kernel("tcx", "nat") as made:
            asked = [request(4, TCP, number) for number in range(1, 50)]
            before = [made.goes_to(one) for one in asked]
            names = made.forwarder.names()
            other = array("I", [(slot + 1) % 3 for slot in SLOTS])
            snapshot = made.snapshot(other)
            first = snapshot.listeners[0]
            new = replace(first, name="new", pool="new", bind=(replace(first.bind[0], port=81),))  # type: ignore[type-var]
            large = replace(snapshot.pools[0], name="new", slots=EVERY)
            changed = tuple(replace(one, banned=packed_ranges(("192.0.2.0/24",))) for one in snapshot.listeners)
            for _ in range(20):
                with pytest.raises(ConfigError, match="array of slots is full"):
                    made.forwarder.publish(Snapshot(2, (*snapshot.pools, large), (*changed, new)))
            assert [made.goes_to(one) for one in asked] == before
            assert made.forwarder.names() == names
            assert has_all_room(made)

    on_a_host(check)


def test_more_networks_than_there_is_room_for_change_nothing() -> None:
    def check() -> None:
        with kernel("xdp", "nat") as made:
            snapshot = made.snapshot()
            first, second, *_ = snapshot.listeners
            addresses = (number.to_bytes(16, "big") for number in range(0, 2 * layout.DENIED_MAX + 4, 2))
            full = b"".join(2 * one for one in addresses)  # each a range of one
            changed = (
                replace(first, banned=packed_ranges(("192.0.2.0/24",))),
                replace(second, name="new", refused=full),
            )
            with pytest.raises(ConfigError, match="update"):
                made.forwarder.publish(replace(snapshot, listeners=changed))
            assert "new" not in made.forwarder.names()
            made.sent(request(4, TCP))
            made.publish(banned=packed_ranges(("192.0.2.0/24",)))
            assert made.sees(request(4, TCP))[0] == DROPPED["xdp"]
            made.sent(request(6, TCP))

    on_a_host(check)


@pytest.mark.parametrize("program", ["xdp", "tcx"])
def test_a_ban_holds_while_its_listener_drains(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            good, bad = request(4, TCP, 5), request(4, TCP, 6)
            for one in (good, bad):
                made.sent(replace(one, flags=SYN))
                made.sent(replace(one, flags=ACK))
            banned = packed_ranges(("192.0.2.6",))
            snapshot = made.snapshot()
            drained = tuple(replace(one, bind=(), banned=banned) for one in snapshot.listeners)
            made.forwarder.publish(replace(snapshot, listeners=drained))
            made.sent(replace(good, flags=ACK))
            assert made.sees(replace(bad, flags=ACK))[0] == DROPPED[program]
            made.forwarder.publish(replace(snapshot, listeners=tuple(replace(one, banned=b"") for one in drained)))
            made.sent(replace(bad, flags=ACK))

    on_a_host(check)


# ---- both engines ----


def on_engines(function: Callable[[Engines, Kernel], None]) -> None:
    """With snapshots like those of `Kernel`."""

    def check() -> None:
        with kernel("tcx", "nat") as model:
            engines = Engines(1)
            engines.start()
            try:
                function(engines, model)
            finally:
                engines.close()

    on_a_host(check)
    gc.collect()  # errors that were raised hold the frames they came through, and those the programs


def tcp4(model: Kernel, port: int = 80, **terms: object) -> Snapshot:
    snapshot = model.snapshot()
    first = snapshot.listeners[0]
    listener = replace(first, bind=(replace(first.bind[0], port=port),), kernel=KernelTerms("nat", "tcx", ("v0",)))  # type: ignore[type-var]
    listener = replace(listener, kernel=replace(listener.kernel, **terms))  # type: ignore[type-var, arg-type]
    return Snapshot(1, snapshot.pools[:1], (listener,))


def is_free(port: int) -> bool:
    """Whether somebody else can have that port of the service's address, which is none of this host's."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        try:
            sock.bind((SERVICE[4], port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


def test_a_change_of_mode_is_refused_and_changes_nothing() -> None:
    def check(engines: Engines, model: Kernel) -> None:
        engines.publish(tcp4(model))
        for change in (tcp4(model, mode="dsr"), tcp4(model, 81, mode="dsr")):
            with pytest.raises(ConfigError, match=r"listeners\.tcp4\.mode: cannot be changed while") as error:
                engines.prepare(change.listeners)
            assert "another name" in str(error.value)
        native = ListenerSpec("tcp4", change.listeners[0].bind, "tcp4")
        with pytest.raises(ConfigError, match=r"listeners\.tcp4\.engine: cannot be changed while"):
            engines.prepare([native])
        assert is_free(81)
        assert not is_free(80)
        engines.publish(replace(tcp4(model), version=2))
        engines.publish(replace(tcp4(model), version=3, listeners=()))
        engines.publish(replace(tcp4(model, mode="dsr"), version=4))  # it was away

    on_engines(check)


def test_what_a_failed_prepare_has_held_is_free_again() -> None:
    def check(engines: Engines, model: Kernel) -> None:
        engines.publish(tcp4(model))
        with pytest.raises(ConfigError, match='device "nosuch"'):
            engines.prepare(tcp4(model, 81, devices=("nosuch",)).listeners)
        assert is_free(81)
        taken = replace(tcp4(model, 82).listeners[0], name="taken")
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
            sock.bind((SERVICE[4], 82))
            with pytest.raises(ConfigError, match=r"listeners\.taken\.bind: .*:82: cannot be had"):
                engines.prepare([*tcp4(model, 83).listeners, taken])
        assert is_free(83)
        engines.prepare([*tcp4(model, 83).listeners, taken])
        assert not is_free(82)
        engines.forget_prepared()
        assert is_free(82)
        assert not is_free(80)
        assert engines.stats().listeners["tcp4"].addresses == (f"{SERVICE[4]}:80",)

    on_engines(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_listener_that_needs_more_room_gets_it_while_packets_flow(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            asked = [request(4, protocol, number) for protocol in PROTOCOLS for number in range(1, 30)]
            first = [made.goes_to(one) for one in asked]
            later = [replace(one, flags=ACK) for one in asked]
            assert [made.goes_to(one) for one in later] == first
            terms = KernelTerms("nat", "tcx" if program == "tcx" else "generic", ("v0",), slots=5_000_011)
            made.forwarder.prepare(made.snapshot(kernel=terms).listeners)
            made.sent(asked[0])
            made.publish(kernel=terms)
            made.program = made.forwarder.program(program)
            assert [made.goes_to(one) for one in later] == first
            assert made.forwarder.listener("tcp4").flows == 30
            assert made.forwarder.flows_on("udp4") == 29
            made.publish()  # it does not shrink
            assert [made.goes_to(one) for one in later] == first

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_answers_to_this_host_pass_when_forwarding_is_turned_off(program: str) -> None:
    """Nothing says then which they are; health checks need them."""

    def check() -> None:
        with kernel(program, "nat") as made:
            answer = Frame(BACKENDS[4][0], "10.9.0.1", 8080, 40_000, TCP)
            assert made.sees(answer) == (PASSED[program], answer.bytes())
            set_sysctl("net.ipv4.ip_forward", "0")
            set_sysctl("net.ipv4.conf.all.forwarding", "0")
            assert made.sees(answer) == (PASSED[program], answer.bytes())

    on_a_host(check)


@pytest.mark.parametrize(
    ("part", "kind", "arguments", "said"),
    [
        ("images", ImportError, ("tcx.o",), "l4lb was installed without it"),
        ("KernelForwarder", FileNotFoundError, (errno.ENOENT, "No such file", "/run/l4lb-1"), "/run/l4lb-1"),
        (
            "KernelForwarder",
            PermissionError,
            (errno.EPERM, "no"),
            "not permitted: CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ),
    ],
)
def test_why_nothing_is_forwarded(
    part: str, kind: type[Exception], arguments: tuple[object, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(engines: Engines, model: Kernel) -> None:
        def failing(*_arguments: object, **_named: object) -> None:
            raise kind(*arguments)

        monkeypatch.setattr(starting, part, failing)
        with pytest.raises(ConfigError, match=re.escape(said)):
            engines.prepare(tcp4(model).listeners)

    on_engines(check)


def test_programs_that_were_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(ImportError, match=r"xdp\.o"):
        images()
