"""upstream blocks as pools. One that servers use with different settings becomes several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from l4lb.convert.drafting.draft import Draft, Option, Place, Pool
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.values import duration, is_name, number
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.including import Including
from l4lb.convert.nginx.keywords import SERVER, UPSTREAM
from l4lb.convert.nginx.settings import parameters_of, report_directives
from l4lb.convert.nginx.values import seconds_of

_FAILS, _FAIL_S = 1, 10.0  # of nginx
_ADDRESS_KEYS = ("$remote_addr", "$binary_remote_addr")
_NO_CHECKS = "nginx asks no server whether it works; with type tcp l4lb would"
_OF_POOL = ("max_fails", "fail_timeout", "slow_start")


@dataclass(slots=True)
class Upstream:
    """A block, or an address that proxy_pass names. `pools` has those made of it, with the settings that they have."""

    name: str
    place: Place
    directives: list[Directive]
    pools: list[tuple[dict[str, Any], Pool]] = field(default_factory=list)


class Upstreams:
    """All of a section stream."""

    def __init__(self, draft: Draft, blocks: list[Directive], including: Including, report: Report) -> None:
        self._draft, self._report = draft, report
        self._known: dict[str, Upstream] = {}
        for block in blocks:
            name = block.arguments[0] if block.arguments else ""
            directives = list(including.walk(block.block or []))
            report_directives(directives, UPSTREAM, report)
            if name in self._known:
                report.lost(block.place, block.text, "another upstream has this name")
            self._known.setdefault(name, Upstream(name, block.place, directives))

    def unused(self) -> list[Upstream]:
        return [one for one in self._known.values() if not one.pools]

    def knows(self, name: str) -> bool:
        return name in self._known

    def pool(self, target: str, place: Place, settings: dict[str, Option], tcp_only: dict[str, Option]) -> str | None:
        """The name of the pool for an upstream or address, with these settings; `tcp_only` is for TCP, and fits a pool
        that UDP uses, too. None, reported, for what is neither."""
        upstream = self._known.get(target) or self._of_address(target, place)
        if upstream is None:
            self._report.lost(place, target, "there is no such upstream, and it is no HOST:PORT nor unix:/path")
            return None
        tcp_only = _attempts(upstream, tcp_only)
        wanted = {key: one.value for key, one in settings.items()}
        for known, pool in upstream.pools:
            fits = all(key not in pool.options or pool.options[key].value == one.value for key, one in tcp_only.items())
            if known == wanted and fits:
                pool.options.update(tcp_only)
                return pool.name
        name = self._draft.free_pool_name(target)
        made = self._made(upstream, name)
        if not made.backends:
            return None
        self._draft.pools[name] = made
        made.options |= settings | tcp_only
        upstream.pools.append((wanted, made))
        return name

    def _of_address(self, target: str, place: Place) -> Upstream | None:
        if backend_address(target) is None:
            return None
        server = Directive(["server", target], place)
        return self._known.setdefault(target, Upstream(target, place, [server]))

    def _made(self, upstream: Upstream, name: str) -> Pool:
        pool = Pool(name, upstream.place)
        _policy(pool, upstream.directives, self._report)
        servers = [one for one in upstream.directives if one.name == "server"]
        parsed = [(one, parameters_of(one, SERVER, self._report)) for one in servers]
        for directive, given in parsed:
            _add(pool, directive, given, self._report)
        if not pool.backends:
            self._report.lost(upstream.place, f"upstream {upstream.name}", "it has no servers that were converted")
            return pool
        _failures(pool, parsed, self._report)
        return pool


def _attempts(upstream: Upstream, tcp_only: dict[str, Option]) -> dict[str, Option]:
    """With as many as there are servers in use, at most; 0 is so many."""
    if "connect_attempts" not in tcp_only:
        return tcp_only
    tries = tcp_only["connect_attempts"]
    usable = sum(one.name == "server" and "down" not in one.words for one in upstream.directives)
    return {**tcp_only, "connect_attempts": Option(min(tries.value or usable, usable) or 1, tries.place)}


def backend_address(text: str) -> str | None:
    """As l4lb has it; None for what is no address."""
    if text.startswith("unix:"):
        return text
    host, colon, port = text.rpartition(":")
    if port == "$server_port":
        port = "0"
    if not colon or not host or number(port) is None or "$" in host or "/" in host:
        return None
    return f"{host}:{port}"


def _policy(pool: Pool, directives: list[Directive], report: Report) -> None:
    for directive in directives:
        name, arguments = directive.name, directive.arguments
        if name == "least_conn":
            pool.set("policy", "least_sessions", directive.place)
        elif name == "least_time":
            pool.set("policy", "peak_ewma", directive.place, "by the time to connect and to answer, and sessions")
        elif name == "random":
            pool.set("policy", "p2c" if arguments[:1] == ["two"] else "random", directive.place)
        elif name == "hash":
            _hash(pool, directive, arguments, report)


def _hash(pool: Pool, directive: Directive, arguments: list[str], report: Report) -> None:
    key = arguments[0] if arguments else ""
    bare = key.replace("$remote_port", "").strip(":_-")
    if bare not in _ADDRESS_KEYS:
        why = "what is hashed is the client's address, with its port or without: see hash_key; it becomes round_robin"
        report.lost(directive.place, directive.text, why)
        return
    consistent = "consistent" in arguments
    why = "" if consistent else "when servers come and go, few clients move; nginx moves most of them"
    pool.set("policy", "ring" if consistent else "maglev", directive.place, why)
    if "$remote_port" in key:
        pool.set("hash_key", "source_ip_port", directive.place)


def _add(pool: Pool, directive: Directive, given: dict[str, str], report: Report) -> None:
    address = backend_address(directive.arguments[0]) if directive.arguments else None
    if address is None or "service" in given:
        if address is None:
            report.lost(directive.place, directive.text, "expected HOST:PORT or unix:/path")
        return
    value: dict[str, object] = {"address": address}
    for name, key in (("weight", "weight"), ("max_conns", "max_sessions")):
        if given.get(name, "") and (count := number(given[name])) is not None:
            value[key] = count
    if "backup" in given:
        value["priority"] = 1
    if "down" in given or "drain" in given:
        value["admin_state"] = "maint" if "down" in given else "drain"
    why = "nginx takes all addresses of the name, l4lb the first that works; discovery of type dns has all"
    pool.backends.append(Option(value, directive.place, why if is_name(address) else ""))


def _failures(pool: Pool, parsed: list[tuple[Directive, dict[str, str]]], report: Report) -> None:
    first, given = parsed[0]
    for directive, other in parsed[1:]:
        for name in _OF_POOL:
            if other.get(name) != given.get(name):
                what = f"server ... {name}={other.get(name, '(not given)')}"
                report.lost(directive.place, what, "the whole pool has one; that of its first server is taken")
    place = first.place
    pool.set("health.type", "none", place, _NO_CHECKS)
    fails = number(given.get("max_fails", ""))
    fails = _FAILS if fails is None else fails
    if len(parsed) == 1:
        fails = 0  # nginx never takes out the only server
    pool.set("passive.failures", fails, place, "nginx never takes out the only server" if len(parsed) == 1 else "")
    if fails:
        seconds = seconds_of(given.get("fail_timeout", "")) or _FAIL_S
        pool.set("passive.eject_for", duration(seconds), place, "times the number of ejections, at most 10 of them")
        pool.set("passive.max_ejected_percent", 100, place)
    if slow := seconds_of(given.get("slow_start", "")):
        pool.set("slow_start", duration(slow), place)
