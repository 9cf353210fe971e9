"""The ``dns`` check: a query for `name`, answered with NOERROR and at least one record.

Over UDP, and over TCP when the answer was truncated or `transport` says so. Without EDNS, which some servers reject.
"""

from __future__ import annotations

import struct

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from l4lb.control.checks.checks import CheckFailed, Target, begin_step
from l4lb.control.checks.datagram import open_datagrams
from l4lb.control.checks.stream import Stream, open_stream


async def check_dns(target: Target) -> None:
    """Raises CheckFailed at steps ``connect``, ``answer`` and ``answer over tcp``; the caller bounds the time."""
    settings = target.settings
    query = dns.message.make_query(settings.name, settings.record)
    answer = await _over_udp(target, query) if settings.transport == "udp" else None
    step = "answer"
    if answer is None or answer.flags & dns.flags.TC:
        step = "answer over tcp"
        answer = await _over_tcp(target, query)
    if answer.rcode() != dns.rcode.NOERROR:
        raise CheckFailed(step, dns.rcode.to_text(answer.rcode()))
    if not answer.answer:
        raise CheckFailed(step, f"NOERROR without a record of {settings.name} {settings.record}")


async def _over_udp(target: Target, query: dns.message.Message) -> dns.message.Message:
    with open_datagrams(target) as datagrams:
        begin_step("answer")
        datagrams.send(query.to_wire())
        return _parsed(await datagrams.receive(), query, "answer")


async def _over_tcp(target: Target, query: dns.message.Message) -> dns.message.Message:
    """RFC 1035, 4.2.2: each message has its length before it."""
    async with open_stream(target) as stream:
        begin_step("answer over tcp")
        wire = query.to_wire()
        await stream.send(struct.pack("!H", len(wire)) + wire)
        data = await _at_least(stream, b"", 2)
        length = struct.unpack_from("!H", data)[0]
        data = await _at_least(stream, data, 2 + length)
    return _parsed(data[2 : 2 + length], query, "answer over tcp")


async def _at_least(stream: Stream, data: bytes, count: int) -> bytes:
    while len(data) < count:
        more = await stream.receive()
        if not more:
            raise CheckFailed("answer over tcp", f"closed after {len(data)} bytes")
        data += more
    return data


def _parsed(wire: bytes, query: dns.message.Message, step: str) -> dns.message.Message:
    try:
        answer = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise CheckFailed(step, f"not a DNS message: {type(error).__name__}") from error
    if not query.is_response(answer):
        raise CheckFailed(step, "an answer to another question")
    return answer
