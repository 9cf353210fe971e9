"""The bind lines of a frontend: addresses, and what l4lb has per listener."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from l4lb.convert.drafting.draft import Option, Options, Place
from l4lb.convert.drafting.networks import EVERYBODY
from l4lb.convert.drafting.values import TOO_MANY_PARTS, duration, joined_binds, number, parts_of, ports_of
from l4lb.convert.haproxy.parameters import BIND
from l4lb.convert.haproxy.proxies import Proxy, parameters, seconds_of
from l4lb.convert.haproxy.words import Line, unix_or_rest

_TRUSTS = "HAProxy believes the PROXY header of everybody who connects; put the networks of your proxies here"
_DEFERS = "HAProxy leaves the time to the system"
_NO_ACCEPT = ("ssl", "accept-netscaler-cip")  # what l4lb cannot do for clients of this address


@dataclass(slots=True)
class Group:
    """Addresses of one listener."""

    place: Place
    addresses: list[str] = field(default_factory=list)
    options: Options = field(default_factory=dict)

    def key(self, by_port: bool) -> tuple[object, ...]:
        """Equal for addresses that one listener can have."""
        options = repr({key: one.value for key, one in self.options.items()})
        return options, ports_of(self.addresses[0]) if by_port else None


def groups_of(proxy: Proxy, begins: Collection[int]) -> list[Group]:
    """One for each listener. `begins` is where ports begin to lead elsewhere: each of these parts has a listener of its
    own."""
    groups: dict[object, Group] = {}
    for line in proxy.all("bind"):
        if len(line.words) < 2:
            proxy.report.lost(line.place, line.text, "expected an address")
            continue
        given = dict(parameters(line.words[2:], BIND, line, proxy.report))
        if any(name in given for name in _NO_ACCEPT):
            continue
        options = _options(proxy, line, given)
        for address in _addresses(proxy, line, "v6only" in given, options):
            parts = parts_of(address, begins)
            if not parts:
                proxy.report.lost(line.place, f"bind {address}", TOO_MANY_PARTS)
            for part in parts:
                new = Group(line.place, [part], options)
                if (same := groups.setdefault(new.key(bool(begins)), new)) is not new:
                    same.addresses.append(part)
    for group in groups.values():
        group.addresses = joined_binds(group.addresses)
    return list(groups.values())


def _options(proxy: Proxy, line: Line, given: dict[str, str]) -> Options:
    options: Options = {}

    def put(key: str, value: object, why: str = "") -> None:
        options[key] = Option(value, line.place, why)

    if "accept-proxy" in given:
        put("accept_proxy", "any")
        put("proxy_trusted", EVERYBODY, _TRUSTS)
    if (backlog := number(given.get("backlog", ""))) is not None:
        put("backlog", backlog)
    if (maximum := number(given.get("maxconn", ""))) is not None:
        put("max_sessions", maximum, "at this limit l4lb resets new clients; HAProxy lets them wait")
    if "defer-accept" in given:
        put("defer_accept", "3s", _DEFERS)
    if "tfo" in given:
        put("fast_open", 256)
    if (seconds := seconds_of(given.get("tcp-ut", ""))) is not None:
        put("user_timeout", duration(seconds))
    if "transparent" in given:
        put("transparent", True)
    return options


def _addresses(proxy: Proxy, line: Line, v6only: bool, options: Options) -> Iterator[str]:
    for text in line.words[1].split(","):
        address = listen_address(text)
        if address is None:
            why = "expected an address of TCP or a unix socket; see fd:NAME for sockets of systemd"
            proxy.report.lost(line.place, f"bind {text}", why)
            continue
        if v6only and address.startswith(":"):
            options["bind"] = Option(None, line.place, "v6only: l4lb takes IPv4 on this port too; see deny")
        yield address


def listen_address(text: str) -> str | None:
    """As l4lb has it; None for what it has not."""
    unix, rest = unix_or_rest(text)
    if not rest:
        return unix or None
    host, colon, port = rest.rpartition(":")
    host = host.strip("[]")
    if not colon:
        return None
    if host in ("", "*"):
        host = "::" if text.removeprefix("stream+").startswith(("ipv6@", "tcp6@")) else "0.0.0.0"
    if host == "::":
        return f":{port}"  # both families, as with HAProxy on Linux
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_is(bind: str, values: tuple[str, ...]) -> bool:
    """Whether the ports of `bind` are among `values`, which may be ranges and are where `groups_of` cut it."""
    low, high = ports_of(bind)
    ranges = [value.partition(":") for value in values]
    return any(int(first) <= low and high <= int(last or first) for first, _, last in ranges)
