"""Asks DNS itself, on the thread of an event loop: what records there are, for how long, and if none, why.

A long answer comes by TCP (RFC 7766). Every server that is asked gets its part of the time; one that fails is followed
by the next.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.message
    import dns.rdata

_UDP_BYTES = 1232  # what arrives in one piece nearly everywhere: DNS flag day 2020
_SERVER_WITHIN_S = 2.0


class NotAnswered(Exception):
    """No server answered, or with a failure: ``SERVFAIL``, ..."""


@dataclass(frozen=True, slots=True)
class Records:
    """`rdatas` of the type that was asked for, valid for `ttl_s`. `none`: why there is none, such as ``NXDOMAIN``.
    `response` is the whole message; None with NXDOMAIN."""

    rdatas: Sequence[dns.rdata.Rdata]
    ttl_s: float
    none: str = ""
    response: dns.message.Message | None = None


def server_of(text: str) -> tuple[str, int]:
    """The IP address and port in ``10.0.0.53``, ``10.0.0.53:5353``, ``::1`` or ``[::1]:5353``. ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        port = (port.removeprefix(":") or "53") if closed else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdecimal() else 0
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ValueError('expected the IP address of a name server, with or without a port, such as "10.0.0.53:53"')
    return host, number


def resolver_for(servers: Sequence[str], timeout_s: float) -> dns.asyncresolver.Resolver:
    """Asks these servers, or those of /etc/resolv.conf as it is now. NotAnswered when that names none."""
    import dns.asyncresolver
    import dns.nameserver
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration as error:
        raise NotAnswered(f"/etc/resolv.conf: {error}") from None
    if servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server_of(text)) for text in servers]
    resolver.lifetime = timeout_s
    resolver.timeout = min(_SERVER_WITHIN_S, timeout_s / max(1, len(resolver.nameservers)))
    resolver.use_edns(0, 0, _UDP_BYTES)
    return resolver


async def query(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> Records:
    """Raises NotAnswered."""
    import dns.exception
    import dns.resolver

    try:
        answer = await resolver.resolve(name, kind, raise_on_no_answer=False, search=True)
    except dns.resolver.NXDOMAIN:
        return Records((), 0.0, "NXDOMAIN")
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise NotAnswered(why(error)) from None
    ttl_s = max(0.0, answer.expiration - time.time())
    if answer.rrset is None:
        return Records((), ttl_s, f"it has no {kind} records", answer.response)
    return Records(tuple(answer.rrset), ttl_s, "", answer.response)


def why(error: Exception) -> str:
    """Of a failure of dnspython's resolver; what the error itself says when it is another."""
    import dns.rcode
    import dns.resolver

    if isinstance(error, dns.resolver.NXDOMAIN):
        return "NXDOMAIN"
    if isinstance(error, dns.resolver.NoAnswer):
        return "it has no address"
    if isinstance(error, dns.resolver.NoNameservers):
        responses = [one[4] for one in error.kwargs.get("errors", []) if len(one) > 4 and one[4] is not None]
        return dns.rcode.to_text(responses[-1].rcode()) if responses else "no name server can be reached"
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer from the name server"
    return str(error) or type(error).__name__
