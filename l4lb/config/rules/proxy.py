"""Combinations of PROXY protocol options that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config.options.base import given
from l4lb.config.options.listener import Listener
from l4lb.config.options.models import Pool
from l4lb.config.options.proxy import OWN_BYTES_MAX, OwnTlv
from l4lb.model.states import Protocol
from l4lb.net.address import parse_address


def accept_conflicts(listener: Listener) -> Iterator[tuple[str, str]]:
    """(key, message)."""
    if listener.accept_proxy == "off":
        for key in ("proxy_trusted", "proxy_timeout"):
            if given(listener, key):
                yield key, "has no effect without accept_proxy"
    elif listener.accept_proxy == "v1" and listener.protocol is Protocol.UDP:
        yield "accept_proxy", '"v1": version 1 knows no datagrams; expected "v2" or "any"'
    elif not listener.proxy_trusted and any(parse_address(bind).kind != "unix" for bind in listener.bind):
        expected = 'expected the networks of the proxies in front, such as ["10.0.0.0/8"]'
        yield "proxy_trusted", f"missing: accept_proxy believes what a header says; {expected}"


def send_conflicts(pool: Pool) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path within the pool, message)."""
    if pool.send_proxy_tlvs and pool.send_proxy != "v2":
        yield ("send_proxy_tlvs",), 'has no effect without send_proxy = "v2": version 1 has no TLVs'
    seen: dict[str | int, int] = {}
    for index, tlv in enumerate(pool.send_proxy_tlvs):
        key = tlv.type if isinstance(tlv, OwnTlv) else tlv
        if key in seen:
            yield ("send_proxy_tlvs", index), f"the same as send_proxy_tlvs[{seen[key]}]"
        seen.setdefault(key, index)
    if sum(len(tlv.packed) for tlv in pool.send_proxy_tlvs if isinstance(tlv, OwnTlv)) > OWN_BYTES_MAX:
        yield ("send_proxy_tlvs",), f"too long: own TLVs have at most {OWN_BYTES_MAX} bytes together"
