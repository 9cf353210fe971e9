"""The frontend part of a section as listeners."""

from __future__ import annotations

import math
from typing import NamedTuple

from l4lb.convert.drafting.draft import Draft, Listener, Place
from l4lb.convert.drafting.refusing import refusing_pool
from l4lb.convert.drafting.values import duration, number
from l4lb.convert.haproxy.acls import Acls
from l4lb.convert.haproxy.admission import admit
from l4lb.convert.haproxy.binds import Group, groups_of
from l4lb.convert.haproxy.proxies import Proxy, seconds_of
from l4lb.convert.haproxy.routing import Rule, port_begins, route, rules_of

_KERNEL_KEEPALIVE = {"idle": 7200.0, "intvl": 75.0, "cnt": 9}  # tcp(7)


def add_listeners(draft: Draft, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    """All of a frontend or listen section. Pools are in the draft by now."""
    acls = Acls(proxy)
    rules = [rule for rule in rules_of(proxy, acls) if _leads(rule, draft, proxy)]
    groups = groups_of(proxy, port_begins(rules))
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
            listener.set("max_sessions", maximum, place, f"at this limit l4lb resets new clients; {waits}")
    if (backlog := proxy.count("backlog")) and "backlog" not in listener.options:
        listener.set("backlog", backlog, proxy.line_of("backlog").place)
    if rate := proxy.count("rate-limit sessions"):
        place = proxy.line_of("rate-limit sessions").place
        listener.set("session_rate", f"{rate}/s", place, f"above this rate l4lb resets new clients; {waits}")


def _led_to(listener: Listener, proxies: dict[str, Proxy]) -> list[Proxy]:
    """The proxies that a listener's clients are sent to. Their directives about servers count, not those that the
    frontend has from its defaults."""
    names = [listener.options["pool"].value, *(route.options["pool"].value for route in listener.routes)]
    return [proxies[name] for name in dict.fromkeys(names) if name in proxies and proxies[name].kind != "frontend"]


class _Time(NamedTuple):
    """`seconds` is infinite for a timeout of 0."""

    seconds: float
    place: Place


def _times_of(proxy: Proxy, key: str) -> list[_Time]:
    """One, or none where it is not given."""
    seconds = proxy.seconds(key)
    return [] if seconds is None else [_Time(seconds or math.inf, proxy.line_of(key).place)]


def _times(listener: Listener, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    """One time of no progress, in either direction, for what HAProxy counts by side."""
    backends = _led_to(listener, proxies)
    client = _times_of(proxy, "timeout client")
    found = [one for backend in backends for one in _times_of(backend, "timeout tunnel") or
             [*client, *_times_of(backend, "timeout server")]] or client  # fmt: skip
    if found:
        seconds, place = min(found)
        why = "the shortest of several timeouts" if len({one.seconds for one in found}) > 1 else ""
        listener.set("idle_timeout", _or_off(seconds), place, why)
    else:
        listener.set("idle_timeout", "off", proxy.place, "HAProxy has no timeout here, and warns about that")
    idle = listener.options["idle_timeout"]
    halves = [one for backend in backends for one in _times_of(backend, "timeout server-fin")]
    half = min([*_times_of(proxy, "timeout client-fin"), *halves], default=None)
    if half is not None:
        listener.set("half_close_timeout", _or_off(half.seconds), half.place)
    else:
        listener.set("half_close_timeout", idle.value, idle.place)


def _or_off(seconds: float) -> float | str:
    return duration(0.0 if seconds == math.inf else seconds)


def _keepalive(listener: Listener, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    sides = [(proxy, "clitcpka"), *((backend, "srvtcpka") for backend in _led_to(listener, proxies))]
    lines = [line for one, side in sides if (line := one.last("option tcpka", f"option {side}")) is not None]
    if not lines:
        return
    value: dict[str, object] = {}
    for ours, theirs in (("idle", "idle"), ("interval", "intvl"), ("count", "cnt")):
        given = next((line.words[1] for one, side in sides if (line := one.last(f"{side}-{theirs}")) is not None
                      and len(line.words) > 1), "")  # fmt: skip
        if theirs == "cnt":
            value[ours] = number(given) or _KERNEL_KEEPALIVE[theirs]
        else:
            value[ours] = duration(seconds_of(given) or _KERNEL_KEEPALIVE[theirs])
    listener.set("keepalive", value, lines[0].place, "on both sides")
