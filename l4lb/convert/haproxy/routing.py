"""use_backend and default_backend as the routes of a listener."""

from __future__ import annotations

import re
from typing import NamedTuple

from l4lb.convert.drafting.draft import Listener, Option, Place, Route
from l4lb.convert.drafting.files import read_named
from l4lb.convert.haproxy.acls import FILE_BYTES_MAX, Acls, Condition, Test, alternatives_of, rule_condition
from l4lb.convert.haproxy.binds import port_is
from l4lb.convert.haproxy.proxies import Proxy
from l4lb.convert.haproxy.words import Line

ROUTES_MAX = 4096  # of a listener
_TLS = ("hex:1603",)
_MAP = re.compile(r"%\[req[._]ssl_sni(?:,lower)?,(map|map_str|map_end)\(([^(),]+)(?:,([^(),]+))?\)\]")
_ORDER = "a route cannot say what must not hold: write routes for the others before it"


class Rule(NamedTuple):
    """One route to be: to `pool` under a condition, or the reason why there is none."""

    line: Line
    pool: str
    condition: Condition | str


def rules_of(proxy: Proxy, acls: Acls) -> list[Rule]:
    """Those of use_backend, in order, with what their maps name."""
    rules = []
    for line in proxy.all("use_backend"):
        target, words = rule_condition(line, 1)
        if len(target) != 1:
            rules.append(Rule(line, "", "expected one name of a backend"))
            continue
        for condition in map(acls.condition, alternatives_of(words)):
            rules += _mapped(line, target[0], condition) if "%" in target[0] else [Rule(line, target[0], condition)]
    return rules


def _mapped(line: Line, expression: str, condition: Condition | str) -> list[Rule]:
    """A route for each line of a map file, and one for its default."""
    match = _MAP.fullmatch(expression)
    if match is None:
        return [Rule(line, "", "the backend is computed; l4lb has names in its routes, or a hook: see docs/hooks.md")]
    if isinstance(condition, str):
        return [Rule(line, "", condition)]
    try:
        entries = _entries(match[2])
    except ValueError as error:
        return [Rule(line, "", str(error))]
    ends = match[1] == "map_end"
    rules = [Rule(line, pool, _with(condition, Test("sni", _names(name, ends)))) for name, pool in entries]
    return [*rules, *([Rule(line, match[3].strip(), condition)] if match[3] else [])]


def _with(condition: Condition, test: Test) -> Condition:
    return [[*tests, test] for tests in condition]


def _names(name: str, ends: bool) -> tuple[str, ...]:
    bare = name.lower().lstrip(".")
    if not ends:
        return (name.lower(),)
    return (f"*.{bare}",) if name.startswith(".") else (bare, f"*.{bare}")


def _entries(path: str) -> list[tuple[str, str]]:
    """Keys and values. ValueError with the reason why there are none."""
    lines = read_named(path, FILE_BYTES_MAX).split("\n")
    found = [line.split(None, 1) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if len(found) > ROUTES_MAX:
        raise ValueError(f"{path}: more than {ROUTES_MAX} lines")
    return [(parts[0], parts[1].strip()) for parts in found if len(parts) == 2]


def port_begins(rules: list[Rule]) -> set[int]:
    """The ports from which on clients may be led elsewhere, by conditions on the port that they came to."""
    conditions = [rule.condition for rule in rules if not isinstance(rule.condition, str)]
    tests = [test for condition in conditions for tests in condition for test in tests if test.kind == "dst_port"]
    ranges = [value.partition(":") for test in tests for value in test.values]
    return {begin for first, _, last in ranges for begin in (int(first), int(last or first) + 1)}


def route(listener: Listener, rules: list[Rule], fallback: tuple[str, Place] | None, proxy: Proxy) -> None:
    """Fill in the routes and the pool for all other clients, which is missing when there is none."""
    bind = listener.options["bind"].value[0]
    for rule in rules:
        if isinstance(rule.condition, str):
            proxy.report.lost(rule.line.place, rule.line.text, rule.condition)
            continue
        for tests in rule.condition:
            options = _options(tests, bind)
            if isinstance(options, str):
                proxy.report.lost(rule.line.place, rule.line.text, options)
            elif options == {}:
                listener.set("pool", rule.pool, rule.line.place)
                return
            elif options is not None and len(listener.routes) < ROUTES_MAX:
                given = {key: Option(list(values), rule.line.place) for key, values in options.items()}
                given["pool"] = Option(rule.pool, rule.line.place)
                listener.routes.append(Route(rule.line.place, given))
    if fallback is not None:
        listener.set("pool", *fallback)


def _options(tests: list[Test], bind: str) -> dict[str, tuple[str, ...]] | str | None:
    """The conditions of a route; empty: it takes all; None: it takes nobody; the reason why it is none."""
    options: dict[str, tuple[str, ...]] = {}
    for test in tests:
        holds = _known(test, bind)
        if holds is not None:
            if holds == test.negated:
                return None
            continue
        if test.kind in ("conn_cur", "conn_rate"):
            return "limits of clients refuse them, and choose no pool: see per_source"
        if test.negated:
            return _ORDER
        if test.kind in options and options[test.kind] != test.values:
            both = {options[test.kind], test.values}
            if _TLS not in both:
                return f"two conditions on {test.kind} must hold"
        options[test.kind] = test.values
    if options.get("starts_with") == _TLS and ("sni" in options or "alpn" in options):
        del options["starts_with"]
    return options


def _known(test: Test, bind: str) -> bool | None:
    """Whether it holds for every client of the listener; None when that depends on the client."""
    match test.kind:
        case "always":
            return True
        case "never":
            return False
        case "dst_port":
            return port_is(bind, test.values)
    return None
