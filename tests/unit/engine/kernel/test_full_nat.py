"""Full NAT by single packets: what backends see and clients get back, with every checksum verified; whose a port is,
when it is free again, and what takes none away."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.layout import Verdict
from l4lb.model.snapshot import HashKey
from tests.support.frames import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, Frame, parse
from tests.support.kernel import (
    BACKENDS,
    DROPPED,
    GATEWAY,
    GATEWAYS_LINK,
    LINKS,
    OURS,
    PASSED,
    PROGRAMS,
    SENT,
    SERVICE,
    SLOTS,
    Kernel,
    expected,
    kernel,
    on_a_host,
    request,
)
from tests.support.namespaces import set_sysctl
from tests.support.programs import run
from tests.support.quic_twin import long_header, short_header
from tests.support.waiting import wait_until

EACH = pytest.mark.parametrize("program", PROGRAMS)
ENDS = [(family, protocol) for family in (4, 6) for protocol in (TCP, UDP)]
ONE = array("I", [0]) * 251  # all clients go to the first backend
FEW = 1024
PORTS = set(range(1024, 32768))


def few_ports() -> None:
    """As few as may be."""
    set_sysctl("net.ipv4.ip_local_port_range", f"{1024 + FEW} 65535")


def answered(made: Kernel, out: Frame, payload: bytes = b"an answer", flags: int = ACK) -> Frame:
    """What becomes of the backend's answer to a packet as it got it."""
    asked = request(4, TCP)
    return parse(made.sent(replace(out, links=asked.links, flags=flags).answer(payload)))


def opened(made: Kernel, asked: Frame) -> Frame:
    """The first two packets of a flow; what its backend sees of it."""
    first = parse(made.sent(asked))
    second = parse(made.sent(replace(asked, flags=ACK)))
    assert (second.source_port, second.destination) == (first.source_port, first.destination)
    return second


def many(count: int, protocol: int = TCP, start: int = 0) -> list[Frame]:
    """Requests of different clients."""
    asked = [request(4, protocol, 1 + number % 200) for number in range(start, start + count)]
    return [replace(one, source_port=2000 + number // 200) for number, one in enumerate(asked, start)]


@EACH
def test_to_a_backend_and_back(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            for family, protocol in ENDS:
                for size in (0, 5, 1300, 1301):
                    asked = request(family, protocol, 7 + size % 2, random.Random(size).randbytes(size))
                    out = parse(made.sent(asked))
                    backend = expected(asked, {})
                    host = BACKENDS[family][list(LINKS).index(backend)]
                    assert out == replace(
                        asked, source=OURS[family], source_port=out.source_port, destination=host,
                        destination_port=8080, links=(LINKS[backend], out.links[1]), hops=63, flags=out.flags,
                    )  # fmt: skip
                    assert out.source_port in PORTS
                    back = answered(made, out)
                    assert (back.source, back.source_port) == (SERVICE[family], 80)
                    assert (back.destination, back.destination_port) == (asked.source, asked.source_port)
                    assert (back.payload, back.links[0], back.hops) == (b"an answer", GATEWAYS_LINK, 62)
            counts = made.forwarder.listener("udp4")
            assert (counts.packets_up, counts.packets_down) == (4, 4)
            assert sum(one.packets_down for one in made.forwarder.by_backend().values()) == 16

    on_a_host(check)


@EACH
def test_a_flow_keeps_its_port_and_no_two_share_one(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            asked = many(500) + many(500, UDP)
            first = [parse(made.sent(one)) for one in asked]
            assert [parse(made.sent(one)) for one in asked] == first  # a SYN that is sent again is the same
            later = [opened(made, one) for one in asked]
            assert [one.source_port for one in later] == [one.source_port for one in first]
            seen = {(one.protocol, one.destination, one.source_port) for one in later}
            assert len(seen) == len(asked)
            for one, out in zip(asked, later, strict=True):
                back = answered(made, out)
                assert (back.destination, back.destination_port) == (one.source, one.source_port)

    on_a_host(check)


@EACH
def test_services_share_a_backend_and_a_client_has_one_port_for_two(program: str) -> None:
    """The same client's port asks by TCP and by UDP, and the table sends it elsewhere in between."""

    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE)
            tcp, udp = opened(made, request(4, TCP)), opened(made, request(4, UDP))
            assert {tcp.destination, udp.destination} == {BACKENDS[4][0]}
            made.publish(array("I", [1]) * 251)
            moved = parse(made.sent(request(4, TCP)))
            assert moved.destination == BACKENDS[4][1]
            for out in (udp, moved):
                assert answered(made, out).destination_port == request(4, TCP).source_port
            late = answered(made, tcp)  # of the connection before, for the same client
            assert late.destination == request(4, TCP).source

    on_a_host(check)


@EACH
def test_what_is_no_answer_goes_up_the_stack(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            for family, protocol in ENDS:
                out = opened(made, request(family, protocol))
                asked = replace(out, links=request(family, protocol).links)
                others = [
                    replace(asked, source_port=out.source_port ^ 1),
                    replace(asked, source_port=40_000),  # a health check
                    replace(asked, destination_port=8081),
                    replace(asked, destination=GATEWAY[family]),
                    replace(asked, protocol=TCP if protocol == UDP else UDP),
                ]
                for other in others:
                    answer = other.answer(b"no")
                    assert made.sees(answer) == (PASSED[program], answer.bytes()), other

    on_a_host(check)


@EACH
def test_fragments_both_ways(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            for family in (4, 6):
                ids = set[int]()
                for number in (7, 8):  # two clients that have chosen the same id
                    whole = replace(request(family, UDP, number, random.Random(number).randbytes(3000)), fragment_id=77)
                    host = BACKENDS[family][list(LINKS).index(expected(whole, {}))]
                    pieces = [replace(whole, offset=at, more=at < 2000) for at in (0, 1000, 2000)]
                    outs = [made.sent(one, 1008 if one.offset == 2000 else 1000) for one in pieces]
                    found = [parse(out, whole=False) for out in outs]
                    assert {(one.source, one.destination) for one in found} == {(OURS[family], host)}
                    assert len({one.fragment_id for one in found}) == 1
                    ids.add(found[0].fragment_id)
                    seen = replace(
                        whole, source=OURS[family], destination=host, source_port=found[0].source_port,
                        destination_port=8080,
                    )  # fmt: skip
                    assert b"".join(above(out) for out in outs) == seen.l4()
                    answer = replace(seen.answer(random.Random(5).randbytes(3000)), fragment_id=number)
                    back = [made.sent(replace(answer, offset=at, more=at < 2000), 1008) for at in (0, 1008, 2016)]
                    heard = replace(
                        answer, source=SERVICE[family], destination=whole.source, source_port=80,
                        destination_port=whole.source_port,
                    )  # fmt: skip
                    assert b"".join(above(out) for out in back) == heard.l4()
                    there = [parse(out, whole=False) for out in back]
                    assert {(one.source, one.destination, one.fragment_id) for one in there} == {
                        (SERVICE[family], whole.source, number)
                    }
                assert len(ids) == 2

    on_a_host(check)


def above(data: bytes) -> bytes:
    """What is above IP, and a fragment header."""
    return data[34:] if data[12:14] == b"\x08\x00" else data[62:]


def error_about(frame: Frame, router: str) -> Frame:
    family = 4 if frame.v4 else 6
    return Frame(router, frame.source, protocol=ICMP if family == 4 else ICMP6, payload=frame.ip()[:64])


def about(error: Frame) -> tuple[str, str, int, int]:
    """The ends of the packet that an error is about, as it quotes them. Its IP header is right."""
    quoted = error.payload
    family = 4 if error.v4 else 6
    size = 20 if family == 4 else 40
    frame = parse(bytes(12) + (b"\x08\x00" if family == 4 else b"\x86\xdd") + quoted, whole=False)
    ports = struct.unpack_from("!HH", quoted, size)
    return frame.source, frame.destination, *ports


@EACH
def test_errors_both_ways(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            for family, protocol in ENDS:
                asked = request(family, protocol, payload=bytes(100))
                out = opened(made, asked)
                back = answered(made, out, bytes(100))
                to_backend = parse(made.sent(error_about(replace(back, links=asked.links), GATEWAY[family])))
                assert (to_backend.source, to_backend.destination) == (OURS[family], out.destination)
                assert about(to_backend) == (out.destination, OURS[family], 8080, out.source_port)
                for router in (GATEWAY[family], out.destination):
                    to_client = parse(made.sent(error_about(out, router)))
                    assert (to_client.source, to_client.destination) == (SERVICE[family], asked.source)
                    assert about(to_client) == (asked.source, SERVICE[family], asked.source_port, 80)
                strangers = [
                    error_about(request(family, protocol, 99).answer(bytes(100)), GATEWAY[family]),
                    error_about(replace(out, source_port=40_000), GATEWAY[family]),
                ]
                for stranger in strangers:
                    assert made.sees(stranger) == (PASSED[program], stranger.bytes())

    on_a_host(check)


@EACH
def test_who_hears_that_a_packet_is_too_large(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            outs = {family: opened(made, request(family, TCP)) for family in (4, 6)}
            run("ip", "link", "set", "v0", "mtu", "1400")
            for family, out in outs.items():
                asked = replace(request(family, TCP, payload=bytes(1400), flags=ACK), dont_fragment=True)
                answer = replace(out, links=asked.links, dont_fragment=True).answer(bytes(1400))
                for frame, teller in ((asked, SERVICE[family]), (answer, OURS[family])):
                    told = parse(made.sent(frame))
                    assert (told.source, told.destination) == (teller, frame.source)
                    assert told.payload == frame.ip()[: len(told.payload)]
            may_be_cut = replace(request(4, TCP, payload=bytes(1400), flags=ACK), dont_fragment=False)
            assert made.sees(may_be_cut)[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.TOO_LARGE] == 1

    on_a_host(check)


@EACH
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_without_a_free_port_it_is_dropped_and_counted(program: str, protocol: int) -> None:
    """What has one goes on; another backend has all ports for itself."""

    def check() -> None:
        few_ports()
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE)
            asked = many(2 * FEW, protocol)
            known = dict[Frame, int]()
            for one in asked:
                verdict, data = made.sees(one)
                if verdict == SENT[program]:
                    known[one] = parse(data).source_port
                    assert parse(made.sent(replace(one, flags=ACK))).source_port == known[one]
            assert len(set(known.values())) == len(known)
            assert FEW * 0.9 < len(known) <= FEW  # the last few are found by chance
            assert made.forwarder.verdicts()[Verdict.NO_PORT] == len(asked) - len(known)
            for one, port in known.items():
                assert parse(made.sent(replace(one, flags=ACK))).source_port == port
            made.publish(array("I", [1]) * 251)
            for one in many(100, protocol, start=2 * FEW):
                made.sent(one)

    on_a_host(check)


@EACH
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_flood_takes_no_port_of_a_flow(program: str, protocol: int) -> None:
    """Of SYNs, or of single datagrams. New clients get a port meanwhile, and keep it with their second packet."""

    def check() -> None:
        few_ports()
        with kernel(program, "nat", flows=1 << 16, source=OURS) as made:
            made.publish(ONE)
            known = {one: opened(made, one).source_port for one in many(500, protocol)}
            flood = bytearray(request(4, protocol, 1).bytes())
            for number in range(20 * FEW):
                flood[26:30] = struct.pack("!I", 0x0B000000 + number)  # checksums are as they may
                assert made.program.test(bytes(flood))[0] == SENT[program]
            for one in many(20, protocol, start=1000):
                known[one] = opened(made, one).source_port
            for one, port in known.items():
                out = parse(made.sent(replace(one, flags=ACK)))
                assert out.source_port == port
                assert answered(made, out).destination == one.source

    on_a_host(check)


def reset_by_the_client(made: Kernel, asked: Frame, out: Frame) -> None:
    made.sent(replace(asked, flags=RST))


def reset_by_the_backend(made: Kernel, asked: Frame, out: Frame) -> None:
    answered(made, out, b"", RST)


def ended_by_both(made: Kernel, asked: Frame, out: Frame) -> None:
    answered(made, out, b"", FIN | ACK)
    made.sent(replace(asked, flags=FIN | ACK))


ENDINGS = [reset_by_the_client, reset_by_the_backend, ended_by_both]


@EACH
@pytest.mark.parametrize("end", ENDINGS)
def test_ports_of_connections_that_are_over_are_free_soon(
    program: str, end: Callable[[Kernel, Frame, Frame], None]
) -> None:
    def check() -> None:
        few_ports()
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE)
            known = full(made)
            for one, out in known.items():
                end(made, one, out)
            new = iter(many(100_000, start=80 * FEW))

            def is_served() -> bool:
                one = next(new)
                return all(made.sees(packet)[0] == SENT[program] for packet in (one, replace(one, flags=ACK)))

            assert wait_until(lambda: all(is_served() for _ in range(50)))

    on_a_host(check)


@EACH
def test_a_connection_that_one_side_has_ended_keeps_its_port(program: str) -> None:
    """So does one whose RST was not taken: packets come after it."""

    def check() -> None:
        few_ports()
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE)
            known = full(made)
            (over, _), *others = known.items()
            for number, (one, out) in enumerate(others):
                if number % 3 == 0:
                    made.sent(replace(one, flags=FIN | ACK))
                elif number % 3 == 1:
                    answered(made, out, b"", FIN | ACK)
                else:
                    made.sent(replace(one, flags=RST))
                    answered(made, out)
            made.sent(replace(over, flags=RST))
            new = iter(many(100_000, start=80 * FEW))
            takers = (one for one in new if made.sees(one)[0] == SENT[program])
            opened(made, next(takers))  # when it takes the only port that is free, time enough has passed
            refused = made.forwarder.verdicts()[Verdict.NO_PORT]
            for _ in range(50):
                assert made.sees(next(new))[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.NO_PORT] == refused + 50
            for one, out in others:
                assert parse(made.sent(replace(one, flags=ACK))).source_port == out.source_port

    on_a_host(check)


def full(made: Kernel) -> dict[Frame, Frame]:
    """Connections until there is no port left for one more; what their backend sees of each."""
    known = dict[Frame, Frame]()
    for one in many(40 * FEW, start=30 * FEW):
        verdict, _ = made.sees(one)
        if verdict == SENT[made.name]:
            known[one] = parse(made.sent(replace(one, flags=ACK)))
        if len(known) == FEW:
            return known
    raise AssertionError(f"{len(known)} of {FEW} ports were found")


@EACH
def test_ports_of_idle_flows_are_free(program: str) -> None:
    def check() -> None:
        few_ports()
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE, idle_timeout_s=1.0)
            full(made)
            new = iter(many(100_000, start=80 * FEW))
            assert wait_until(lambda: made.sees(next(new))[0] == SENT[program])

    on_a_host(check)


@EACH
def test_flows_go_on_when_tables_and_source_change(program: str) -> None:
    def check() -> None:
        run("ip", "addr", "add", "10.9.0.2/24", "dev", "v0")
        with kernel(program, "nat", source=OURS) as made:
            asked = [request(4, protocol, number) for protocol in (TCP, UDP) for number in range(1, 40)]
            known = {one: opened(made, one) for one in asked}
            made.source = {4: "10.9.0.2", 6: OURS[6]}
            made.publish(array("I", [(slot + 1) % 3 for slot in SLOTS]))
            for one, out in known.items():
                assert parse(made.sent(replace(one, flags=ACK))) == out
                assert answered(made, out).destination == one.source
            new = opened(made, request(4, TCP, 50))
            assert new.source == "10.9.0.2"
            assert answered(made, new).destination == request(4, TCP, 50).source
            made.source = {4: "", 6: ""}
            made.publish()
            for one, out in known.items():
                assert parse(made.sent(replace(one, flags=ACK))) == out
                assert answered(made, out).destination == one.source
            plain = parse(made.sent(request(4, TCP, 60)))
            assert plain.source == request(4, TCP, 60).source
            made.source = OURS
            made.publish()
            plain_later = parse(made.sent(request(4, TCP, 60, flags=ACK)))
            assert plain_later.source == plain.source
            assert answered(made, plain_later).destination == plain.source
            assert opened(made, request(4, TCP, 61)).source == OURS[4]

    on_a_host(check)


@EACH
def test_flows_of_a_backend_that_is_down_go_to_others(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            made.publish(ONE)
            known = {one: opened(made, one) for one in many(20, UDP)}
            made.publish(array("I", [1]) * 251)
            made.forwarder.leave("udp4", ["a"])
            for one in known:
                out = parse(made.sent(one))
                assert out.destination == BACKENDS[4][1]
                assert answered(made, out).destination == one.source

    on_a_host(check)


@EACH
def test_a_ports_own_service_stays_reachable(program: str) -> None:
    """A listener on the source address itself: its port is none for full NAT."""

    def check() -> None:
        set_sysctl("net.ipv4.ip_local_port_range", "2048 65535")
        with kernel(program, "nat", source={4: SERVICE[4], 6: ""}) as made:
            made.publish(ONE)
            seen = {opened(made, one).source_port for one in many(200)}
            assert len(seen) == 200
            back = answered(made, opened(made, request(4, UDP, 3)))
            assert (back.source, back.source_port) == (SERVICE[4], 80)

    on_a_host(check)


@EACH
def test_strangers_cannot_move_a_connection(program: str) -> None:
    """By a SYN in its client's name, which its backend sees within the connection."""

    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            asked = request(4, TCP)
            out = opened(made, asked)
            forged = parse(made.sent(asked))
            assert (forged.source_port, forged.flags) == (out.source_port, SYN)
            assert parse(made.sent(replace(asked, flags=ACK))).source_port == out.source_port

    on_a_host(check)


@EACH
def test_a_quic_client_that_moves_has_another_port_of_its_backend(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat", source=OURS, hash_key=HashKey.QUIC_CID) as made:
            id_, rest = b"given by it", bytes(30)
            asked = replace(request(4, UDP, 7), payload=long_header(id_, b"its own", rest=rest))
            before = opened(made, asked)
            moved = replace(request(4, UDP, 8), payload=short_header(id_, rest))
            made.publish(array("I", [(slot + 1) % 3 for slot in SLOTS]))
            after = parse(made.sent(moved))
            assert after.destination == before.destination
            assert after.source_port != before.source_port
            assert answered(made, after).destination == moved.source
            assert answered(made, before).destination == asked.source

    on_a_host(check)


@EACH
def test_another_process_goes_on(program: str) -> None:
    from l4lb.engine.kernel.attaching import images
    from l4lb.engine.kernel.forwarding import KernelForwarder

    def check() -> None:
        with kernel(program, "nat", source=OURS) as made:
            known = {one: opened(made, one) for one in (request(f, p) for f, p in ENDS)}
            before = made.forwarder
            made.forwarder = KernelForwarder(images(), flows=1 << 12, inherited=before.exported())
            made.publish()
            before.hold()
            made.forwarder.take_over()
            made.program = made.forwarder.program(program)
            before.close()
            for one, out in known.items():
                assert parse(made.sent(replace(one, flags=ACK))) == out
                assert answered(made, out).destination == one.source
            new = opened(made, request(4, TCP, 77))
            assert new.source == OURS[4]

    on_a_host(check)
