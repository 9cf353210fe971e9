"""listen directives: the addresses of a server, by what l4lb has per listener."""

from __future__ import annotations

from dataclasses import dataclass, field

from l4lb.convert.drafting.draft import Option, Options, Place
from l4lb.convert.drafting.networks import EVERYBODY
from l4lb.convert.drafting.values import duration, joined_binds, number, ports_of
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.keywords import LISTEN
from l4lb.convert.nginx.settings import Settings, parameters_of
from l4lb.convert.nginx.values import seconds_of

_TRUSTS = "nginx believes the PROXY header of everybody who connects; put the networks of your proxies here"
_V6 = "l4lb takes IPv4 on this port, too; with nginx [::] is IPv6 alone"
_KERNEL = ("2h", "75s", 9)  # tcp(7)
_FLAGS = ("udp", "proxy_protocol", "deferred")
_HEADER_S = 30.0
_PORTS_MAX = 256  # listeners, where each port needs its own


@dataclass(slots=True)
class Group:
    """Addresses of one listener."""

    place: Place
    udp: bool
    addresses: list[str] = field(default_factory=list)
    options: Options = field(default_factory=dict)
    why: str = ""

    def alike(self, other: Group) -> bool:
        mine, others = ({key: one.value for key, one in group.options.items()} for group in (self, other))
        return self.udp == other.udp and mine == others


def groups_of(settings: Settings, one_by_one: bool) -> list[Group]:
    """One for each listener, and for each port when that decides; none when a server terminates TLS, which is
    reported."""
    groups: list[Group] = []
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
        for one in _each_port(address, directive, settings) if one_by_one else [address]:
            _add(groups, Group(directive.place, "udp" in given, [one], options, _V6 if v6_alone else ""), one_by_one)
    for group in groups:
        if len(group.addresses) > len(joined := joined_binds(group.addresses)):
            group.why = ""  # IPv4 was listened on anyway
        group.addresses = joined
    return groups


def _add(groups: list[Group], new: Group, one_by_one: bool) -> None:
    for group in groups:
        if group.alike(new) and (not one_by_one or ports_of(group.addresses[0]) == ports_of(new.addresses[0])):
            group.addresses += new.addresses
            group.why = group.why or new.why
            return
    groups.append(new)


def _each_port(address: str, directive: Directive, settings: Settings) -> list[str]:
    """The addresses of a range."""
    first, last = ports_of(address)
    if last - first >= _PORTS_MAX:
        why = f"$server_port decides: a listener for each port, and not for more than {_PORTS_MAX}"
        settings.report.lost(directive.place, directive.text, why)
        return []
    host = address.rpartition(":")[0]
    return [f"{host}:{port}" for port in range(first, last + 1)] if last > first else [address]


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
