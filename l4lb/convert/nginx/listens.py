"""listen directives: the addresses of a server, by what l4lb has per listener."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from l4lb.convert.drafting.draft import Option, Options, Place
from l4lb.convert.drafting.networks import EVERYBODY
from l4lb.convert.drafting.values import TOO_MANY_PARTS, duration, joined_binds, number, parts_of, ports_of
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.keywords import LISTEN
from l4lb.convert.nginx.settings import Settings, parameters_of
from l4lb.convert.nginx.values import seconds_of

_TRUSTS = "nginx believes the PROXY header of everybody who connects; put the networks of your proxies here"
_V6 = "l4lb takes IPv4 on this port, too; with nginx [::] is IPv6 alone"
_KERNEL = ("2h", "75s", 9)  # tcp(7)
_FLAGS = ("udp", "proxy_protocol", "deferred")
_HEADER_S = 30.0


@dataclass(slots=True)
class Group:
    """Addresses of one listener."""

    place: Place
    udp: bool
    addresses: list[str] = field(default_factory=list)
    options: Options = field(default_factory=dict)
    why: str = ""

    def key(self, by_port: bool) -> tuple[object, ...]:
        """Equal for addresses that one listener can have."""
        options = repr({key: one.value for key, one in self.options.items()})
        return self.udp, options, ports_of(self.addresses[0]) if by_port else None


def groups_of(settings: Settings, begins: Collection[int]) -> list[Group]:
    """One for each listener; none when a server terminates TLS, which is reported. `begins` is where ports begin to
    lead elsewhere: each of these parts has a listener of its own."""
    groups: dict[object, Group] = {}
    for directive in settings.all("listen"):
        given = parameters_of(directive, LISTEN, settings.report)
        if not directive.arguments or "ssl" in given:
            continue
        address = listen_address(directive.arguments[0])
        if address is None:
            settings.report.lost(directive.place, directive.text, "expected a port, HOST:PORT or unix:/path")
            continue
        options = _options(directive, given, settings)
        v6_alone = directive.arguments[0].startswith("[::]:") and given.get("ipv6only") != "off"
        addresses = parts_of(address, begins)
        if not addresses:
            settings.report.lost(directive.place, directive.text, TOO_MANY_PARTS)
        for one in addresses:
            new = Group(directive.place, "udp" in given, [one], options, _V6 if v6_alone else "")
            if (same := groups.setdefault(new.key(bool(begins)), new)) is not new:
                same.addresses.append(one)
                same.why = same.why or new.why
    for group in groups.values():
        if len(group.addresses) > len(joined := joined_binds(group.addresses)):
            group.why = ""  # IPv4 was listened on anyway
        group.addresses = joined
    return list(groups.values())


def _options(directive: Directive, given: dict[str, str], settings: Settings) -> Options:
    options: Options = {}
    place = directive.place
    if "proxy_protocol" in given:
        trusted = [one.arguments[0] for one in settings.all("set_real_ip_from") if one.arguments]
        networks = [one for one in trusted if one != "unix:"]
        options["accept_proxy"] = Option("any", place)
        options["proxy_trusted"] = Option(networks or EVERYBODY, place, "" if networks else _TRUSTS)
        options["proxy_timeout"] = Option(duration(settings.seconds("proxy_protocol_timeout", _HEADER_S)), place)
    for name, key in (("backlog", "backlog"), ("fastopen", "fast_open")):
        if (count := number(given.get(name, ""))) is not None:
            options[key] = Option(count, place)
    if "deferred" in given:
        options["defer_accept"] = Option("3s", place, "nginx leaves the time to the system")
    keepalive = given.get("so_keepalive", "on" if settings.is_on("proxy_socket_keepalive") else "off")
    if keepalive not in ("off", "") and "udp" not in given:
        options["keepalive"] = Option(_keepalive(keepalive), place, "on both sides")
    return options


def _keepalive(text: str) -> dict[str, object]:
    """Of so_keepalive: on, or idle:interval:count, of which each may be missing."""
    parts = [*text.split(":"), "", "", ""] if ":" in text else ["", "", ""]
    idle, interval = (seconds_of(part) if part else None for part in parts[:2])
    return {
        "idle": duration(idle) if idle else _KERNEL[0],
        "interval": duration(interval) if interval else _KERNEL[1],
        "count": number(parts[2]) or _KERNEL[2],
    }


def listen_address(text: str) -> str | None:
    """As l4lb has it; None for what is no address."""
    if text.startswith("unix:"):
        return text
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = "", text
    first, _, last = port.partition("-")
    if number(first) is None or (last and number(last) is None):
        return None
    if host in ("", "*"):
        return f"0.0.0.0:{port}"
    return f":{port}" if host == "[::]" else f"{host}:{port}"
