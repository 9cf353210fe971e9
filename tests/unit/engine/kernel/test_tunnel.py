"""The mode tunnel: what is inside is what the client sent, with every checksum verified, and what is outside is as the
RFCs say. Each program, each family in each, IPIP and GUE."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.layout import Verdict
from tests.support.frames import ACK, ICMP, ICMP6, IPIP, IPV6, TCP, UDP, Frame, parse, unwrap
from tests.support.kernel import (
    BACKENDS,
    DROPPED,
    GATEWAY,
    LINKS,
    PROGRAMS,
    SENT,
    SERVICE,
    Kernel,
    expected,
    kernel,
    on_a_host,
    request,
)
from tests.support.programs import run

OURS = {4: "10.9.0.1", 6: "fd09::1"}
INSIDE = [{4: 4, 6: 6}, {4: 6, 6: 4}]
GUE_PORTS = [0, 6080]
SIZES = (0, 5, 1300, 1301)
EACH = pytest.mark.parametrize("program", PROGRAMS)
EACH_WAY = pytest.mark.parametrize("gue_port", GUE_PORTS, ids=["ipip", "gue"])
EACH_FAMILY = pytest.mark.parametrize("to", INSIDE, ids=["same", "mixed"])


def carried(made: Kernel, asked: Frame, cut: int | None = None) -> tuple[Frame, bytes]:
    """What came out, outside and inside, of a packet that has to come out."""
    outer, inside = unwrap(made.sent(asked, cut))
    family = 4 if asked.v4 else 6
    place = list(LINKS.values()).index(outer.links[0])
    assert (outer.source, outer.destination) == (OURS[made.to[family]], BACKENDS[made.to[family]][place])
    assert outer.protocol == (UDP if made.gue_port else IPIP if asked.v4 else IPV6)
    assert (outer.hops, outer.offset, outer.more) == (64, 0, False)
    assert not made.gue_port or (outer.destination_port == made.gue_port and outer.source_port >= 49152)
    assert inside[14:] == replace(asked, hops=asked.hops - 1).ip(cut)
    return outer, inside


@EACH
@EACH_WAY
@EACH_FAMILY
def test_a_packet_goes_inside_as_it_is(program: str, gue_port: int, to: dict[int, int]) -> None:
    def check() -> None:
        with kernel(program, "tunnel", to=to, gue_port=gue_port) as made:
            for family in (4, 6):
                for protocol in (TCP, UDP):
                    for size in SIZES:
                        asked = request(family, protocol, 7 + size % 2, random.Random(size).randbytes(size))
                        outer, inside = carried(made, asked)
                        assert outer.links[0] == LINKS[expected(asked, {})]
                        assert parse(inside).payload == asked.payload  # and its checksums are right

    on_a_host(check)


@EACH
@EACH_FAMILY
def test_what_is_copied_to_the_outside(program: str, to: dict[int, int]) -> None:
    """DSCP and ECN; whether it may be fragmented, and an id of its own if it may."""

    def check() -> None:
        with kernel(program, "tunnel", to=to) as made:
            for family in (4, 6):
                for traffic_class in (0, 1, 2, 3, 0xB8, 0xFF):
                    outer, _ = carried(made, replace(request(family, TCP), traffic_class=traffic_class))
                    assert outer.traffic_class == traffic_class
                outers = [carried(made, request(family, UDP))[0] for _ in range(5)]
                if to[family] == 6:
                    continue
                assert {one.dont_fragment for one in outers} == {family == 6}
                assert len({one.fragment_id for one in outers}) == (5 if family == 4 else 1)
                outer, _ = carried(made, replace(request(family, UDP), dont_fragment=True))
                assert (outer.dont_fragment, outer.fragment_id) == (True, 0)

    on_a_host(check)


@EACH
@EACH_WAY
@EACH_FAMILY
def test_fragments_go_inside_as_they_are(program: str, gue_port: int, to: dict[int, int]) -> None:
    def check() -> None:
        with kernel(program, "tunnel", to=to, gue_port=gue_port) as made:
            for family in (4, 6):
                whole = replace(request(family, UDP, payload=random.Random(1).randbytes(3000)), fragment_id=77)
                pieces = [replace(whole, offset=at, more=at < 2000) for at in (0, 1000, 2000)]
                outers = [carried(made, piece, 1008 if piece.offset == 2000 else 1000)[0] for piece in pieces]
                assert {one.links[0] for one in outers} == {LINKS[expected(whole, {})]}
                assert len({one.source_port for one in outers}) == 1

    on_a_host(check)


@EACH
@EACH_WAY
@EACH_FAMILY
def test_errors_go_inside_to_the_backend_that_they_are_about(program: str, gue_port: int, to: dict[int, int]) -> None:
    def check() -> None:
        with kernel(program, "tunnel", to=to, gue_port=gue_port) as made:
            for family in (4, 6):
                for number in range(1, 8):
                    asked = request(family, UDP, number)
                    about = asked.answer(b"what did not get there").ip()[:64]
                    kind = ICMP if family == 4 else ICMP6
                    error = Frame(GATEWAY[family], SERVICE[family], protocol=kind, payload=about)
                    outer, _ = carried(made, error)
                    assert outer.links[0] == LINKS[expected(asked, {})]
                    assert outer.source_port == carried(made, asked)[0].source_port

    on_a_host(check)


@EACH
def test_ports_of_gue_tell_flows_apart(program: str) -> None:
    def check() -> None:
        with kernel(program, "tunnel", gue_port=7000) as made:
            for family in (4, 6):
                asked = [replace(request(family, TCP), source_port=1000 + number) for number in range(200)]
                ports = [carried(made, one)[0].source_port for one in asked]
                assert len(set(ports)) > 150
                assert ports == [carried(made, replace(one, flags=ACK))[0].source_port for one in asked]

    on_a_host(check)


@EACH
def test_padding_stays_outside(program: str) -> None:
    """Ethernet's smallest frames have bytes behind the packet, which its lengths leave out."""

    def check() -> None:
        with kernel(program, "tunnel") as made:
            asked = request(4, TCP, payload=b"")
            verdict, out = made.program.test(asked.bytes() + bytes(6))
            assert verdict == SENT[program]
            assert int.from_bytes(out[16:18], "big") == 20 + len(asked.ip())
            longer = bytearray(asked.bytes())
            longer[16:18] = (1000).to_bytes(2, "big")  # it says so
            assert made.program.test(bytes(longer))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.SHORT] == 1

    on_a_host(check)


@EACH
def test_the_way_to_a_backend_comes_and_goes(program: str) -> None:
    def check() -> None:
        run("ip", "-6", "addr", "flush", "dev", "v0")
        run("ip", "-6", "route", "add", "unreachable", "fd09::/64")
        with kernel(program, "tunnel", to={4: 6, 6: 6}) as made:
            assert made.sees(request(4, TCP))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.NO_ROUTE] == 1
            run("ip", "-6", "route", "del", "unreachable", "fd09::/64")
            run("ip", "-6", "addr", "add", OURS[6] + "/64", "dev", "v0", "nodad")
            for link, backend in zip(LINKS.values(), BACKENDS[6], strict=True):
                run("ip", "neigh", "replace", backend, "lladdr", link.hex(":"), "dev", "v0")
            made.publish()
            carried(made, request(4, TCP))
            run("ip", "addr", "add", "fd09::5/128", "dev", "v0", "nodad")
            run("ip", "-6", "route", "replace", "fd09::/64", "dev", "v0", "src", "fd09::5", "metric", "1")
            made.forwarder.prepare([])  # as a reload does
            assert unwrap(made.sent(request(4, TCP)))[0].source == "fd09::5"

    on_a_host(check)


@EACH
def test_a_packet_without_a_hop_left_ends_here(program: str) -> None:
    def check() -> None:
        with kernel(program, "tunnel") as made:
            for family in (4, 6):
                carried(made, replace(request(family, UDP), hops=2))
                assert made.sees(replace(request(family, UDP), hops=1))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.EXPIRED] == 2

    on_a_host(check)
