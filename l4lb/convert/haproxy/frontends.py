"""The frontend part of a section as listeners."""

from __future__ import annotations

from l4lb.convert.drafting.draft import Draft, Listener, Place
from l4lb.convert.drafting.refusing import refusing_pool
from l4lb.convert.drafting.values import duration
from l4lb.convert.haproxy.acls import Acls
from l4lb.convert.haproxy.admission import admit
from l4lb.convert.haproxy.binds import Group, groups_of
from l4lb.convert.haproxy.proxies import Proxy, seconds_of
from l4lb.convert.haproxy.routing import Rule, route, rules_of, uses_ports

_HALVES = ("timeout client-fin", "timeout server-fin")
_KEEPALIVE = ("option tcpka", "option clitcpka", "option srvtcpka")
_KERNEL_KEEPALIVE = {"idle": 7200.0, "intvl": 75.0, "cnt": 9}  # tcp(7)


def add_listeners(draft: Draft, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    """All of a frontend or listen section. Pools are in the draft by now."""
    acls = Acls(proxy)
    rules = [rule for rule in rules_of(proxy, acls) if _leads(rule, draft, proxy)]
    groups = groups_of(proxy, uses_ports(rules))
    if not groups and not proxy.all("bind"):
        proxy.report.lost(proxy.place, f"{proxy.kind} {proxy.name}", "it has no bind line")
    for group in groups:
        listener = Listener(draft.free_listener_name(proxy.name), group.place, {})
        _bind(listener, group)
        route(listener, rules, _fallback(draft, proxy), proxy)
        if "pool" not in listener.options:
            listener.set("pool", refusing_pool(draft, proxy.place), proxy.place)
        admit(listener, proxy, acls, proxies)
        _limits(listener, proxy)
        _times(listener, proxy, proxies)
        _keepalive(listener, proxy, proxies)
        draft.listeners[listener.name] = listener


def _leads(rule: Rule, draft: Draft, proxy: Proxy) -> bool:
    """Whether its backend was converted; reports it when not."""
    if isinstance(rule.condition, str) or rule.pool in draft.pools:
        return True
    proxy.report.lost(rule.line.place, rule.line.text, f"backend {rule.pool} is not there, or was not converted")
    return False


def _bind(listener: Listener, group: Group) -> None:
    why = group.options["bind"].why if "bind" in group.options else ""
    listener.set("bind", group.addresses, group.place, why)
    listener.options |= {key: one for key, one in group.options.items() if key != "bind"}


def _fallback(draft: Draft, proxy: Proxy) -> tuple[str, Place] | None:
    """The pool of clients that no rule takes."""
    line = proxy.last("default_backend")
    if line is not None and len(line.words) > 1:
        if line.words[1] in draft.pools:
            return line.words[1], line.place
        proxy.report.lost(line.place, line.text, "the backend is not there, or was not converted")
    elif proxy.kind == "listen" and proxy.name in draft.pools:
        return proxy.name, proxy.place
    return None


def _limits(listener: Listener, proxy: Proxy) -> None:
    waits = "HAProxy lets them wait"
    if maximum := proxy.count("maxconn"):
        place = proxy.line_of("maxconn").place
        if "max_sessions" not in listener.options:
            listener.set("max_sessions", maximum, place, f"at it l4lb resets new clients; {waits}")
    if (backlog := proxy.count("backlog")) and "backlog" not in listener.options:
        listener.set("backlog", backlog, proxy.line_of("backlog").place)
    if rate := proxy.count("rate-limit sessions"):
        place = proxy.line_of("rate-limit sessions").place
        listener.set("session_rate", f"{rate}/s", place, f"above it l4lb resets new clients; {waits}")


def _backends(listener: Listener, proxy: Proxy, proxies: dict[str, Proxy]) -> list[Proxy]:
    """All proxies whose timeouts and options count for a listener's clients: itself, and where they go."""
    names = [listener.options["pool"].value, *(route.options["pool"].value for route in listener.routes)]
    return [proxy, *(proxies[name] for name in dict.fromkeys(names) if name in proxies and name != proxy.name)]


def _shortest(proxies: list[Proxy], *keys: str) -> tuple[float, Place, bool] | None:
    """The shortest of the times that are given, where it is, and whether others differ. 0 has no end."""
    found = []
    for proxy in proxies:
        for key in keys:
            if (seconds := proxy.seconds(key)) is not None:
                found.append((seconds or float("inf"), proxy.line_of(key).place))
    if not found:
        return None
    seconds, place = min(found)
    return (0.0 if seconds == float("inf") else seconds), place, len({one for one, _ in found}) > 1


def _times(listener: Listener, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    """One time of no progress, in either direction, for what HAProxy counts by side."""
    involved = _backends(listener, proxy, proxies)
    idle = _shortest(involved, "timeout tunnel") or _shortest(involved, "timeout client", "timeout server")
    if idle is None:
        listener.set("idle_timeout", "off", proxy.place, "HAProxy has no timeout here, and warns about that")
    else:
        seconds, place, differ = idle
        why = "of different timeouts the shortest" if differ else ""
        listener.set("idle_timeout", duration(seconds), place, why)
    half = _shortest(involved, *_HALVES)
    if half is not None:
        listener.set("half_close_timeout", duration(half[0]), half[1])
    else:
        listener.set(
            "half_close_timeout", listener.options["idle_timeout"].value, listener.options["idle_timeout"].place
        )


def _keepalive(listener: Listener, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    involved = _backends(listener, proxy, proxies)
    lines = [line for one in involved for line in [one.last(*_KEEPALIVE)] if line is not None]
    if not lines:
        return
    value: dict[str, object] = {}
    for ours, theirs in (("idle", "idle"), ("interval", "intvl"), ("count", "cnt")):
        words = [
            line.words[1]
            for side in ("clitcpka", "srvtcpka")
            for one in involved
            for line in [one.last(f"{side}-{theirs}")]
            if line is not None and len(line.words) > 1
        ]
        given = words[0] if words else None
        if theirs == "cnt":
            value[ours] = int(given) if given and given.isascii() and given.isdigit() and len(given) < 5 else 9
        else:
            value[ours] = duration((seconds_of(given) if given else None) or _KERNEL_KEEPALIVE[theirs])
    listener.set("keepalive", value, lines[0].place, "on both sides")
