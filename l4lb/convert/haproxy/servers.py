"""server and server-template lines: the backends of a pool, and what l4lb has for all backends of a pool together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from l4lb.convert.drafting.draft import Option, Pool
from l4lb.convert.drafting.values import duration, number
from l4lb.convert.haproxy.checks import connection_of, set_check
from l4lb.convert.haproxy.parameters import SERVER
from l4lb.convert.haproxy.proxies import Proxy, parameters, seconds_of
from l4lb.convert.haproxy.words import Line, unix_or_rest

_QUEUE = 10_000
_ERRORS_IN_A_ROW = 10  # HAProxy's error-limit
_DROPPED = ("ssl", "socks4")
_OPPOSITES = {"enabled": "disabled", "no-agent-check": "agent-check"}
_OF_CHECKS = ("inter", "fastinter", "downinter", "rise", "fall", "port", "addr", "check-ssl", "check-sni", "ca-file")
_OF_POOL = (*_OF_CHECKS, "slowstart", "source", "usesrc", "agent-port", "agent-inter", "observe", "error-limit",
            "on-marked-down")  # fmt: skip
_OF_BACKEND = ("weight", "maxconn", "backup", "disabled")


class Server(NamedTuple):
    """`given` has the parameters of default-server too. `many` is how many a server-template stands for."""

    name: str
    address: str
    given: dict[str, str]
    line: Line
    many: str = ""

    @property
    def proxy_header(self) -> str:
        """Of the three that are known; empty for none."""
        if any(name in self.given for name in ("send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn")):
            return "v2"
        return "v1" if "send-proxy" in self.given else ""


def servers_of(proxy: Proxy) -> list[Server]:
    """Those that can be converted; others are reported."""
    defaults: dict[str, str] = {}
    servers = []
    for line in proxy.all("default-server", "server", "server-template"):
        kind, *words = line.words
        if kind == "default-server":
            _take(defaults, parameters(words, SERVER, line, proxy.report))
            continue
        many = words.pop(1) if kind == "server-template" and len(words) > 1 else ""
        if len(words) < 2:
            proxy.report.lost(line.place, line.text, "expected a name and an address")
            continue
        given = dict(defaults)
        _take(given, parameters(words[2:], SERVER, line, proxy.report))
        address = server_address(words[1])
        if address is None:
            proxy.report.lost(line.place, line.text, "expected HOST:PORT, or a unix socket; not an offset of ports")
        elif not any(name in given for name in _DROPPED):
            if _host(given.get("addr", "")) == _host(address.rpartition(":")[0]):
                del given["addr"]  # its own
            servers.append(Server(words[0], address, given, line, many))
    return _alike(servers, proxy)


def _take(given: dict[str, str], found: Iterator[tuple[str, str]]) -> None:
    for name, argument in found:
        given.pop(_OPPOSITES.get(name, name.removeprefix("no-")), None)
        given[name] = argument


def _host(text: str) -> str:
    return text.strip("[]").lower()


def _alike(servers: list[Server], proxy: Proxy) -> list[Server]:
    """Without those that begin their connections otherwise than the first: the pool has one way."""
    kept = []
    for server in servers:
        if server.proxy_header != servers[0].proxy_header:
            first = servers[0].proxy_header or "no PROXY header"
            why = f"the pool's connections begin with {first}, as those to {servers[0].name}: make another pool of it"
            proxy.report.lost(server.line.place, server.line.text, why)
        else:
            kept.append(server)
    return kept


def server_address(text: str) -> str | None:
    """As l4lb has it; without a port the one that the client came to. None for what it has not."""
    unix, rest = unix_or_rest(text)
    if not rest:
        return unix or None
    host, colon, port = (rest, ":", "0") if rest.endswith("]") or ":" not in rest else rest.rpartition(":")
    host = host.strip("[]")
    port = port or "0"
    if host in ("", "*", "0.0.0.0", "::") or not colon or number(port) is None:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fill(pool: Pool, proxy: Proxy, servers: list[Server]) -> None:
    """Backends and the options that are about them."""
    backups = 0
    for server in servers:
        if server.many:
            _discover(pool, server, proxy)
            continue
        backups += "backup" in server.given
        pool.backends.append(_backend(server, 1 if proxy.last("option allbackups") else backups))
    if not servers:
        return
    first = servers[0]
    if first.proxy_header:
        pool.set("send_proxy", first.proxy_header, first.line.place)
        _tlvs(pool, proxy, first)
    _queue(pool, proxy, servers)
    _once(pool, proxy, servers)
    checked = [server for server in servers if "check" in server.given]
    if checked:
        _health(pool, proxy, servers, checked)
    else:
        pool.set("health.type", "none", first.line.place, "no server line has check")
    _passive(pool, first)


def _discover(pool: Pool, server: Server, proxy: Proxy) -> None:
    """server-template: a source of backends. A pool has one."""
    place = server.line.place
    if "discovery" in pool.tables:
        proxy.report.lost(place, server.line.text, "a pool has one source of backends: make another pool of it")
        return
    host, _, port = server.address.rpartition(":")
    srv = host.startswith("_")
    pool.set("discovery.type", "srv" if srv else "dns", place, f"as many backends as the name has, not {server.many}")
    pool.set("discovery.name", host, place)
    if not srv:
        pool.set("discovery.port", number(port) or 0, place)
    for name in _OF_BACKEND:
        if name in server.given:
            why = "l4lb has no options for backends that discovery finds; change them with l4lb backend"
            proxy.report.lost(place, f"server-template ... {name} {server.given[name]}".rstrip(), why)


def _backend(server: Server, priority: int) -> Option:
    given = server.given
    value: dict[str, object] = {"address": server.address, "id": server.name}
    if (weight := number(given.get("weight", ""))) not in (None, 1):
        value["weight"] = weight
    if maximum := number(given.get("maxconn", "")):
        value["max_sessions"] = maximum
    if "backup" in given:
        value["priority"] = priority
    if "disabled" in given:
        value["admin_state"] = "maint"
    return Option(value, server.line.place)


def _tlvs(pool: Pool, proxy: Proxy, server: Server) -> None:
    known = {"crc32c": "crc32c", "unique-id": "unique_id", "authority": "authority"}
    wanted = [one for one in server.given.get("proxy-v2-options", "").split(",") if one]
    for option in wanted:
        if option not in known:
            proxy.report.lost(
                server.line.place, f"proxy-v2-options {option}", "l4lb terminates no TLS and knows nothing about it"
            )
    if tlvs := [known[one] for one in wanted if one in known]:
        pool.set("send_proxy_tlvs", tlvs, server.line.place)


def _queue(pool: Pool, proxy: Proxy, servers: list[Server]) -> None:
    servers = [server for server in servers if not server.many]
    limited = [server for server in servers if number(server.given.get("maxconn", ""))]
    if not limited:
        return
    place = limited[0].line.place
    waiting = [number(server.given.get("maxqueue", "")) or 0 for server in servers]
    why = "" if all(waiting) else "HAProxy's queues have no end unless maxqueue is given"
    pool.set("queue_size", sum(waiting) if all(waiting) else _QUEUE, place, why)
    seconds = proxy.seconds("timeout queue") or proxy.seconds("timeout connect")
    if seconds:
        pool.set("queue_timeout", duration(seconds), place)


def _once(pool: Pool, proxy: Proxy, servers: list[Server]) -> None:
    """Name where a server differs in what a pool has once."""
    checked = next((server for server in servers if "check" in server.given), servers[0])
    for server in servers:
        if "check" not in server.given and "check" in checked.given:
            why = f"the checks are the pool's, as those of {checked.name}: this server is checked, too"
            proxy.report.lost(server.line.place, f"server {server.name} without check", why)
            continue
        for name in _OF_POOL:
            if server.given.get(name) != checked.given.get(name):
                what = f"server {server.name} ... {name} {server.given.get(name, '(not given)')}".rstrip()
                taken = "its own host" if name == "addr" else f"that of {checked.name}"
                proxy.report.lost(server.line.place, what, f"the whole pool has one; {taken} is taken")
    given = checked.given
    place = checked.line.place
    if seconds := seconds_of(given.get("slowstart", "")):
        pool.set("slow_start", duration(seconds), place)
    if given.get("on-marked-down") == "shutdown-sessions":
        pool.set("on_backend_down", "reset", place)
    set_source(pool, given.get("source", ""), given.get("usesrc", ""), checked.line, proxy)
    if (port := number(given.get("agent-port", ""))) and "agent-check" in given:
        pool.set("agent.port", port, place)
        if seconds := seconds_of(given.get("agent-inter", "")):
            pool.set("agent.interval", duration(seconds), place)


def set_source(pool: Pool, source: str, usesrc: str, line: Line, proxy: Proxy) -> None:
    """Of a source directive or parameter."""
    if usesrc in ("client", "clientip"):
        pool.set("source_address", "client", line.place)
    elif usesrc:
        proxy.report.lost(line.place, f"usesrc {usesrc}", "the source is an address of this host, or the client's")
    elif source:
        host, _, ports = source.rpartition(":") if "." in source and ":" in source else (source, "", "")
        if ports not in ("", "0"):
            proxy.report.lost(line.place, f"source {source}", "the ports of connections are the kernel's to choose")
        if host not in ("0.0.0.0", "::", "*"):
            pool.set("source_address", host.strip("[]"), line.place)


def _health(pool: Pool, proxy: Proxy, servers: list[Server], checked: list[Server]) -> None:
    server = checked[0]
    given, place = server.given, server.line.place
    set_check(pool, proxy, tls="check-ssl" in given)
    interval = seconds_of(given.get("inter", "")) or 2.0
    pool.set("health.interval", duration(interval), place)
    pool.set("health.fast_interval", duration(seconds_of(given.get("fastinter", "")) or interval), place)
    pool.set("health.down_interval", duration(seconds_of(given.get("downinter", "")) or interval), place)
    pool.set("health.timeout", duration(proxy.seconds("timeout check") or interval), place)
    for name in ("rise", "fall"):
        if (count := number(given.get(name, ""))) is not None:
            pool.set(f"health.{name}", count, place)
    connection = connection_of(proxy)
    address = _checked_at(checked, connection)
    if address:
        pool.set("health.address", address, place)
    if "check-send-proxy" in given or (server.proxy_header and not address) or "send-proxy" in connection:
        pool.set("health.send_proxy", True, place)
    if server_name := given.get("check-sni") or connection.get("sni"):
        pool.set("health.server_name", server_name, place)
    if pool.tables["health"]["type"].value in ("tls", "https"):
        _verify(pool, proxy, server)


def _verify(pool: Pool, proxy: Proxy, server: Server) -> None:
    """By ca-file: without it HAProxy verifies nothing, or does not start."""
    given, place = server.given, server.line.place
    authorities = given.get("ca-file", "")
    if not authorities or given.get("verify") == "none":
        return
    if name := given.get("verifyhost") or given.get("check-sni"):
        pool.set("health.server_name", name, place)
        pool.set("health.verify", True if authorities.startswith("@system") else authorities, place)
    else:
        why = "a check that verifies a certificate expects a name in it: set verify and server_name of health"
        proxy.report.lost(place, f"server {server.name} ... ca-file {authorities}", why)


def _checked_at(checked: list[Server], connection: dict[str, str]) -> str:
    """Another address or port than the servers' own; where their addresses differ each is checked at its own host."""
    first = checked[0]
    port = connection.get("port") or first.given.get("port")
    hosts = {_host(server.given.get("addr", "")) for server in checked}
    host = _host(connection.get("addr", "")) or (hosts.pop() if len(hosts) == 1 else "")
    if not host:
        return f":{port}" if port else ""
    return f"{f'[{host}]' if ':' in host else host}:{port or first.address.rpartition(':')[2]}"


def _passive(pool: Pool, server: Server) -> None:
    """HAProxy judges servers by real traffic only where observe says so."""
    if server.given.get("observe"):
        most = number(server.given.get("error-limit", "")) or _ERRORS_IN_A_ROW
        pool.set("passive.failures", most, server.line.place)
    else:
        why = "HAProxy counts no failures of sessions unless observe is given; remove this to eject by them, too"
        pool.set("passive.failures", 0, server.line.place, why)
