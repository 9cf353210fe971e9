"""What the programs make of single packets (BPF_PROG_TEST_RUN), with every checksum verified: each of the two programs,
both families, both protocols, nat and dsr, fragments, errors; and that they choose as the proxy does."""

from __future__ import annotations

import os
import random
import struct
from array import array
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.layout import Verdict
from l4lb.model.snapshot import HashKey
from l4lb.net.ranges import packed_ranges
from tests.support.frames import ACK, FIN, ICMP, ICMP6, OURS, TCP, UDP, Frame, parse
from tests.support.kernel import (
    BACKENDS,
    DROPPED,
    GATEWAY,
    GATEWAYS_LINK,
    LINKS,
    PASSED,
    PROGRAMS,
    PROTOCOLS,
    SENT,
    SERVICE,
    SLOTS,
    expected,
    kernel,
    on_a_host,
    request,
)
from tests.support.programs import run
from tests.support.waiting import wait_until

CASES = [(family, protocol, size) for family in (4, 6) for protocol in (TCP, UDP) for size in (0, 5, 1300, 1301)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_to_a_backend_and_back_by_nat(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            for family, protocol, size in CASES:
                asked = request(family, protocol, 7 + size % 2, random.Random(size).randbytes(size))
                out = parse(made.sent(asked))
                backend = expected(asked, {})
                host = BACKENDS[family][list(LINKS).index(backend)]
                assert out == replace(
                    asked, destination=host, destination_port=8080, links=(LINKS[backend], out.links[1]),
                    hops=63, flags=out.flags,
                )  # fmt: skip
                assert out.links[1] != OURS
                answer = replace(out, links=asked.links).answer(b"an answer")
                back = parse(made.sent(answer))
                assert (back.source, back.source_port) == (SERVICE[family], 80)
                assert (back.destination, back.destination_port) == (asked.source, asked.source_port)
                assert (back.payload, back.links[0]) == (b"an answer", GATEWAYS_LINK)

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_to_a_backend_as_it_is_by_dsr(program: str) -> None:
    def check() -> None:
        with kernel(program, "dsr") as made:
            for family, protocol, size in CASES:
                asked = request(family, protocol, 7, bytes(size))
                data = made.sent(asked)
                assert data[12:] == replace(asked, hops=63).bytes()[12:]
                assert data[:6] == LINKS[expected(asked, {})]

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", ["nat", "dsr"])
def test_fragments_go_where_the_first_one_went(program: str, mode: str) -> None:
    def check() -> None:
        with kernel(program, mode) as made:
            for family in (4, 6):
                whole = replace(request(family, UDP, payload=random.Random(1).randbytes(3000)), fragment_id=77)
                backend = expected(whole, {})
                host = whole.destination if mode == "dsr" else BACKENDS[family][list(LINKS).index(backend)]
                pieces = [replace(whole, offset=at, more=at < 2000) for at in (0, 1000, 2000)]
                outs = [made.sent(piece, 1008 if piece.offset == 2000 else 1000) for piece in pieces]
                assert {out[:6] for out in outs} == {LINKS[backend]}
                found = [parse(out, whole=False) for out in outs]
                assert {one.destination for one in found} == {host}
                above = b"".join(piece_above(out) for out in outs)
                port = 80 if mode == "dsr" else 8080
                assert above == replace(whole, destination=host, destination_port=port).l4()
                if mode == "nat":
                    answer = replace(whole, destination=host, destination_port=8080).answer(bytes(3000))
                    back = [made.sent(replace(answer, offset=at, more=at < 2000), 1008) for at in (0, 1008, 2016)]
                    assert {parse(one, whole=False).source for one in back} == {SERVICE[family]}
                stray = replace(whole, fragment_id=78, offset=1000, more=True)
                assert made.sees(stray, 1000)[0] == PASSED[program]

    on_a_host(check)


def piece_above(data: bytes) -> bytes:
    """What is above IP, and a fragment header."""
    return data[34:] if data[12:14] == b"\x08\x00" else data[62:]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", ["nat", "dsr"])
def test_errors_go_to_the_backend_that_they_are_about(program: str, mode: str) -> None:
    def check() -> None:
        with kernel(program, mode) as made:
            for family, protocol in ((4, TCP), (4, UDP), (6, TCP), (6, UDP)):
                for number in range(1, 12):
                    asked = request(family, protocol, number)
                    backend = expected(asked, {})
                    about = asked.answer(b"what did not get there").ip()[:64]
                    error = Frame(
                        GATEWAY[family], SERVICE[family], protocol=ICMP if family == 4 else ICMP6, payload=about
                    )
                    data = made.sent(error)
                    assert data[:6] == LINKS[backend]
                    out = parse(data)
                    if mode == "dsr":
                        assert data[12:] == replace(error, hops=63).bytes()[12:]
                        continue
                    host = BACKENDS[family][list(LINKS).index(backend)]
                    assert out.destination == host
                    inner = Frame(host, asked.source, 8080, asked.source_port, protocol, asked.flags)
                    at = 20 if family == 4 else 40
                    assert out.payload[:8] == about[:8]
                    assert out.payload[at : at + 4] == inner.l4()[:4]
                    assert inner.ip()[12:16] in out.payload

    on_a_host(check)


KEYS = [HashKey.SOURCE_IP, HashKey.SOURCE_IP_PORT, HashKey.DESTINATION, HashKey.SESSION]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("key", KEYS)
def test_they_choose_as_the_proxy_does(program: str, key: HashKey) -> None:
    def check() -> None:
        for pool in (
            {},
            {"hash_seed": 1 << 63 | 5},
            {"hash_prefix_v4": 24, "hash_prefix_v6": 56},
            {"hash_prefix_v4": 0},
        ):
            with kernel(program, "nat", hash_key=key, **pool) as made:
                for family in (4, 6):
                    for protocol in PROTOCOLS:
                        for number in range(1, 60):
                            asked = request(family, protocol, number)
                            assert made.goes_to(asked) == expected(asked, dict(pool), key), (asked, pool)

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_random_choice_is_kept_by_its_flow(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", hash_key=HashKey.RANDOM) as made:
            asked = [request(4, protocol, number) for protocol in PROTOCOLS for number in range(1, 100)]
            first = [made.goes_to(one) for one in asked]
            assert set(first) == set(LINKS)
            later = [replace(one, flags=ACK) for one in asked]
            for _ in range(3):
                assert [made.goes_to(one) for one in later] == first

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_flows_stay_where_they_are_when_tables_change(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            asked = [request(4, protocol, number) for protocol in PROTOCOLS for number in range(1, 60)]
            first = [made.goes_to(one) for one in asked]
            later = [replace(one, flags=ACK) for one in asked]
            assert [made.goes_to(one) for one in later] == first
            made.publish(array("I", [(slot + 1) % 3 for slot in SLOTS]))
            assert [made.goes_to(one) for one in later] == first
            new = [made.goes_to(one) for one in asked if one.protocol == TCP]  # a SYN begins anew
            moved = {"a": "b", "b": "c", "c": "a"}
            assert new == [moved[one] for one, frame in zip(first, asked, strict=True) if frame.protocol == TCP]
            made.forwarder.leave("udp4", ["a"])
            left = [made.goes_to(one) for one in later if one.protocol == UDP]
            was = [one for one, frame in zip(first, asked, strict=True) if frame.protocol == UDP]
            assert all(now == before for now, before in zip(left, was, strict=True) if before != "a")
            assert all(now == "b" for now, before in zip(left, was, strict=True) if before == "a")

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_for_nobody_goes_up_the_stack(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            one = request(4, TCP)
            others = [
                replace(one, destination_port=81),
                replace(one, destination="203.0.113.2"),
                replace(one, protocol=ICMP),
                Frame("10.9.0.99", "192.0.2.1", 8080, 1000, TCP),
            ]
            for other in others:
                verdict, out = made.sees(other)
                assert (verdict, out) == (PASSED[program], other.bytes())
            for length in range(34, 60):  # tcx sees no shorter ones
                verdict, _ = made.program.test(one.bytes()[:length])
                assert verdict in (PASSED[program], SENT[program])
            known = request(6, UDP, 1)
            made.sent(known)
            made.publish(listeners=False)
            assert made.sees(one)[0] == PASSED[program]
            assert made.sees(request(6, UDP, 2))[0] == PASSED[program]
            made.sent(known)  # what was there goes on

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_listener_is_renamed_and_back(program: str) -> None:
    """While it has flows: who has the address now is asked, not who had it."""

    def check() -> None:
        with kernel(program, "nat") as made:
            for number, prefix in enumerate(("", "other-", "", "other-")):
                made.publish(prefix=prefix)
                before = made.forwarder.listener(f"{prefix}tcp4").flows
                made.sent(request(4, TCP, 10 + number))
                made.sent(request(4, TCP, 10 + number))  # a SYN that is sent again is no other connection
                made.sent(request(4, TCP, 10 + number, flags=ACK))
                assert made.forwarder.listener(f"{prefix}tcp4").flows == before + 1

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_left_and_has_no_flow_is_forgotten(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            made.sent(request(4, TCP))
            made.sent(request(4, TCP, flags=ACK))  # a SYN alone is no flow yet
            made.publish(prefix="other-")
            made.publish(prefix="other-")
            names = made.forwarder.names()
            assert "tcp4" in names
            assert "udp4" not in names
            assert "other-udp4" in names

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_backend_or_a_way_it_is_dropped_and_counted(program: str) -> None:
    def check() -> None:
        with kernel(program, "dsr") as made:
            run("ip", "route", "add", "blackhole", "10.9.0.11/32")
            run("ip", "route", "add", "blackhole", "10.9.0.12/32")
            run("ip", "route", "add", "blackhole", "10.9.0.13/32")
            assert made.sees(request(4, TCP))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.NO_ROUTE] == 1
            made.publish(array("I"))
            assert made.sees(request(6, TCP))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.NO_BACKEND] == 1

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_counted(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            asked = [request(4, TCP, number) for number in range(1, 30)]
            for one in asked:
                made.sent(one)
                made.sent(replace(one, flags=ACK))
            size = len(asked[0].bytes())
            assert made.forwarder.listener("tcp4") == (29, 58, 58 * size, 0, 0, 0)
            assert made.forwarder.listener("udp4") == (0, 0, 0, 0, 0, 0)
            out = parse(made.sent(request(4, UDP)))
            made.sent(replace(out, links=asked[0].links).answer(b"yes"))
            assert made.forwarder.listener("udp4") == (1, 1, len(request(4, UDP).bytes()), 1, 14 + 20 + 8 + 3, 0)
            backends = made.forwarder.by_backend()
            assert sum(one.packets_up for one in backends.values()) == 59
            assert backends["tcp4", expected(asked[0], {})].packets_up >= 2
            assert backends["udp4", expected(request(4, UDP), {})].packets_down == 1
            assert made.forwarder.verdicts()[Verdict.FORWARDED] == 59
            assert made.forwarder.flows_on("tcp4") == 29
            assert sum(made.forwarder.flows_of("tcp4", one) for one in LINKS) == 29
            for one in asked[:10]:
                made.sent(replace(one, flags=ACK | FIN))
            assert wait_until(lambda: made.forwarder.flows_on("tcp4") == 19)

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_udp_without_a_checksum_stays_so(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            asked = replace(request(4, UDP), no_checksum=True)
            out = parse(made.sent(asked))
            assert out.no_checksum
            assert out.destination_port == 8080

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_whom_lists_and_bans_deny_is_dropped(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            good, bad, banned = request(4, TCP, 5), request(4, TCP, 130), request(6, UDP, 0x33)
            for one in (good, bad, banned):
                made.sent(one)
            lists = packed_ranges(("192.0.2.128/25", "198.51.100.7"))
            made.publish(refused=lists, banned=packed_ranges(("2001:db8::33",)))
            made.sent(good)
            made.sent(request(6, UDP, 0x34))
            for one in (bad, replace(bad, flags=ACK), banned):
                assert made.sees(one)[0] == DROPPED[program]
            assert made.forwarder.listener("tcp4").denied == 2
            assert made.forwarder.verdicts()[Verdict.DENIED] == 3
            made.publish(refused=lists)
            made.sent(banned)
            made.publish()
            made.sent(bad)

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_packet_without_a_hop_left_ends_here(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as made:
            for family in (4, 6):
                assert parse(made.sent(replace(request(family, UDP), hops=2))).hops == 1
                for hops in (0, 1):
                    assert made.sees(replace(request(family, UDP), hops=hops))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.EXPIRED] == 4

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_flood_of_syns_pushes_out_no_connection(program: str) -> None:
    """More sources than there is room for, twice over; a million in the long form."""

    def check() -> None:
        with kernel(program, "nat") as made:
            known = [replace(request(4, TCP, 1 + number % 250), source_port=number) for number in range(2000, 4000)]
            first = [made.goes_to(one) for one in known]
            later = [replace(one, flags=ACK) for one in known]
            assert [made.goes_to(one) for one in later] == first
            template = bytearray(request(4, TCP, 1).bytes())
            for number in range(1_000_000 if os.environ.get("L4LB_SOAK") else 150_000):
                template[26:30] = struct.pack("!I", 0x0B000000 + number)  # checksums are as they may
                made.program.test(bytes(template))
            made.publish(array("I", [(slot + 1) % 3 for slot in SLOTS]))
            assert [made.goes_to(one) for one in later] == first
            assert made.forwarder.flows_on("tcp4") == 2000

    on_a_host(check)
