"""What does not fit the way to its backend: who hears of it, what, and who does not."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.layout import Verdict
from tests.support.frames import ACK, ICMP, ICMP6, TCP, UDP, Frame, parse, unwrap
from tests.support.kernel import (
    DROPPED,
    GATEWAY,
    GATEWAYS_LINK,
    PASSED,
    PROGRAMS,
    SERVICE,
    Kernel,
    kernel,
    on_a_host,
    request,
)  # fmt: skip
from tests.support.programs import run
from tests.support.waiting import wait_until

HEADERS = {4: 20, 6: 40}
EACH = pytest.mark.parametrize("program", PROGRAMS)


def sized(family: int, protocol: int, size: int) -> Frame:
    """A packet of `size` bytes from its IP header on, which may not be fragmented."""
    payload = random.Random(size).randbytes(size - HEADERS[family] - (20 if protocol == TCP else 8))
    return replace(request(family, protocol, payload=payload, flags=ACK), dont_fragment=True)


def hears(made: Kernel, asked: Frame, mtu: int) -> None:
    """Its client does, once, of that MTU, from the service, with as much of the packet as may be."""
    before = made.forwarder.verdicts()[Verdict.TOO_LARGE_ANSWERED]
    data = made.sent(asked)
    out = parse(data)
    family = 4 if asked.v4 else 6
    assert (out.source, out.destination, out.links[0]) == (SERVICE[family], asked.source, GATEWAYS_LINK)
    assert out.protocol == (ICMP if family == 4 else ICMP6)
    at = 14 + HEADERS[family]
    kind, code, _, _, said = struct.unpack_from("!BBHHH", data, at)
    assert (kind, code, said) == ((3, 4, mtu) if family == 4 else (2, 0, mtu))
    assert out.payload == asked.ip()[: len(out.payload)]
    most = (576 if family == 4 else 1280) - HEADERS[family] - 8
    assert len(out.payload) == min(most, len(asked.ip())) // 4 * 4
    assert len(data) == 14 + HEADERS[family] + 8 + len(out.payload)
    assert made.forwarder.verdicts()[Verdict.TOO_LARGE_ANSWERED] == before + 1


@EACH
@pytest.mark.parametrize("gue_port", [0, 6080], ids=["ipip", "gue"])
@pytest.mark.parametrize("to", [{4: 4, 6: 6}, {4: 6, 6: 4}], ids=["same", "mixed"])
def test_the_client_of_a_tunnel_hears_what_fits(program: str, gue_port: int, to: dict[int, int]) -> None:
    def check() -> None:
        with kernel(program, "tunnel", to=to, gue_port=gue_port) as made:
            for family in (4, 6):
                mtu = 1500 - HEADERS[to[family]] - (12 if gue_port else 0)
                for protocol in (TCP, UDP):
                    unwrap(made.sent(sized(family, protocol, mtu)))
                    for size in (mtu + 1, 1499, 1500):
                        hears(made, sized(family, protocol, size), mtu)
            assert made.forwarder.verdicts()[Verdict.TOO_LARGE] == 0

    on_a_host(check)


@EACH
@pytest.mark.parametrize("mode", ["nat", "dsr"])
def test_a_smaller_device_towards_the_backends(program: str, mode: str) -> None:
    def check() -> None:
        run("ip", "link", "set", "v0", "mtu", "1400")
        with kernel(program, mode) as made:
            for family in (4, 6):
                for protocol in (TCP, UDP):
                    out = parse(made.sent(sized(family, protocol, 1400)))
                    assert out.protocol == protocol
                    hears(made, sized(family, protocol, 1450), 1400)
            can_be_cut = replace(sized(4, UDP, 1450), dont_fragment=False)
            verdict, _ = made.sees(can_be_cut)  # by nat the stack fragments it
            assert verdict == (PASSED if mode == "nat" else DROPPED)[program]

    on_a_host(check)


@EACH
def test_an_answer_that_does_not_fit_is_the_stacks(program: str) -> None:
    """Which forwards as any router, and tells the backend itself."""

    def check() -> None:
        with kernel(program, "nat") as made:
            run("ip", "link", "set", "v0", "mtu", "1400")
            for family in (4, 6):
                out = parse(made.sent(request(family, TCP)))
                answer = replace(out, links=request(family, TCP).links, dont_fragment=True).answer(bytes(1400))
                assert made.sees(answer) == (PASSED[program], answer.bytes())

    on_a_host(check)


@EACH
def test_who_hears_nothing(program: str) -> None:
    def check() -> None:
        with kernel(program, "tunnel") as made:
            large = sized(4, UDP, 1500)
            about = request(4, UDP).answer(bytes(1440)).ip()
            silent = [
                replace(large, dont_fragment=False),
                replace(large, links=(b"\xff" * 6, large.links[1])),
                *(replace(large, source=source) for source in ("0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255")),
                *(replace(sized(6, UDP, 1500), source=source) for source in ("ff02::1", "::", "::1")),
                Frame(GATEWAY[4], SERVICE[4], protocol=ICMP, payload=about, dont_fragment=True),
            ]
            for number, frame in enumerate(silent, 1):
                assert made.sees(frame)[0] == DROPPED[program], frame
                assert made.forwarder.verdicts()[Verdict.TOO_LARGE] == number, frame
            whole = replace(sized(4, UDP, 4000), fragment_id=5)
            made.sent(replace(whole, more=True), 1000)
            assert made.sees(replace(whole, offset=1000), 1480)[0] == DROPPED[program]
            assert made.forwarder.verdicts()[Verdict.TOO_LARGE] == len(silent) + 1

    on_a_host(check)


@EACH
def test_a_link_that_is_too_small_for_ipv6_is_silent(program: str) -> None:
    """Of 1,280 bytes and less nobody may be told to send less."""

    def check() -> None:
        run("ip", "link", "set", "v0", "mtu", "1280")
        with kernel(program, "tunnel") as made:
            hears(made, sized(6, UDP, 1281), 1280)
            assert made.sees(sized(6, UDP, 1260))[0] == DROPPED[program]

    on_a_host(check)


@EACH
def test_there_are_not_more_than_so_many_a_second(program: str) -> None:
    def check() -> None:
        with kernel(program, "tunnel") as made:
            large = sized(4, UDP, 1500)

            def is_bounded() -> bool:
                before = made.forwarder.verdicts()
                for _ in range(3000):
                    made.sees(large)
                after = made.forwarder.verdicts()
                return after[Verdict.TOO_LARGE] > before[Verdict.TOO_LARGE]

            assert wait_until(is_bounded)  # a busy machine may need more than a second for them
            assert wait_until(lambda: made.sees(large)[0] != DROPPED[program])

    on_a_host(check)
