"""tcp-request rules: who is refused, by address, and by how many connections the address has or makes."""

from __future__ import annotations

from typing import NamedTuple

from l4lb.convert.drafting.draft import Listener, Option, Place
from l4lb.convert.drafting.networks import EVERYBODY, Rule, lists_of, network_of
from l4lb.convert.haproxy.acls import Acls, Condition, Test, rule_condition
from l4lb.convert.haproxy.proxies import Proxy, seconds_of
from l4lb.convert.haproxy.words import Line

_PHASES = ("tcp-request connection", "tcp-request session", "tcp-request content")
_REFUSE = ("reject", "silent-drop")
_BURST = "the average of HAProxy's rate over {period:g} s; a second's worth may come at once"
_OTHERS = "l4lb refuses clients by address, and by the connections of an address; a hook can by more: see docs/hooks.md"

_LIMITED = "it accepts clients before a limit is checked; per_source applies to all clients, these included"
_AFTER = "a rule before it accepts by what clients send; nobody is refused by that, clients go to the pool"
_EXPECT = "set accept_proxy and proxy_trusted in the listener; whoever is not trusted is reset"


class _Refusal(NamedTuple):
    """A rule that was understood."""

    line: Line
    refuses: bool
    test: Test

    @property
    def drops(self) -> bool:
        return self.line.words[2] == "silent-drop"


def admit(listener: Listener, proxy: Proxy, acls: Acls, proxies: dict[str, Proxy]) -> None:
    """Fill in allow, deny, deny_action and per_source."""
    rules = [_phase(phase, proxy, acls) for phase in _PHASES]
    by_source = [[rule for rule in phase if rule.test.kind != "conn"] for phase in rules]
    _lists(listener, by_source, proxy)
    for phase in rules:
        _limits(listener, phase, proxy, proxies)
    refusals = [rule for phase in by_source for rule in phase if rule.refuses]
    dropping = [rule for rule in refusals if rule.drops]
    if dropping and not {"allow", "deny"}.isdisjoint(listener.options):
        why = "" if dropping == refusals else "l4lb does the same with all that it refuses; HAProxy resets some"
        listener.set("deny_action", "drop", dropping[0].line.place, why)


def _limits(listener: Listener, phase: list[_Refusal], proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    accepted: list[_Refusal] = []
    for rule in phase:
        if rule.test.kind == "conn":
            _limit(listener, rule, proxy, proxies)
            for before in accepted:
                proxy.report.lost(before.line.place, before.line.text, _LIMITED)
        elif not rule.refuses:
            accepted.append(rule)


def _phase(phase: str, proxy: Proxy, acls: Acls) -> list[_Refusal]:
    """The rules that were understood, in order. Others than those by address may have accepted a client before."""
    rules, accepted = [], False
    for line in proxy.all(phase):
        action, words = rule_condition(line, 2)
        if action[:1] == ("accept",) and phase == _PHASES[-1] and _by_content(acls.condition(words)):
            accepted |= bool(words)
        elif (rule := _judge(line, proxy, acls)) is not None:
            if accepted:
                proxy.report.lost(line.place, line.text, _AFTER)
            else:
                rules.append(rule)
    return rules


def _judge(line: Line, proxy: Proxy, acls: Acls) -> _Refusal | None:
    """None for what needs nothing, and for what cannot be done, which is reported."""
    action, words = rule_condition(line, 2)
    if not action or action[0].startswith(("track-sc", "inspect-delay")) or action[0] == "expect-proxy":
        if action and (action[0] == "expect-proxy" or (action[0].startswith("track") and action[1:2] != ("src",))):
            proxy.report.lost(line.place, line.text, _EXPECT if action[0] == "expect-proxy" else _OTHERS)
        return None
    refuses = action[0] in _REFUSE
    condition = acls.condition(words)
    if isinstance(condition, str) or (not refuses and action[0] != "accept"):
        proxy.report.lost(line.place, line.text, condition if isinstance(condition, str) else _OTHERS)
        return None
    if condition and all(len(tests) == 1 for tests in condition):
        merged = _merged([tests[0] for tests in condition])
        if merged is not None and (refuses or merged.kind in ("source", "always")):
            return _Refusal(line, refuses, merged)
    proxy.report.lost(line.place, line.text, _OTHERS)
    return None


def _by_content(condition: Condition | str) -> bool:
    """Accepting by what the client sends, as in ``accept if { req.ssl_hello_type 1 }``, only ends HAProxy's wait."""
    if isinstance(condition, str):
        return True
    return all(test.kind in ("starts_with", "sni", "alpn", "always") for tests in condition for test in tests)


def _merged(tests: list[Test]) -> Test | None:
    """Alternatives of one kind as one test; limits keep their own kind in `values`."""
    first = tests[0]
    if first.kind in ("conn_cur", "conn_rate") and len(tests) == 1 and not first.negated:
        return Test("conn", (first.kind, *first.values))
    if first.kind == "always" and not first.negated:
        return first
    if all(test.kind == "source" and test.negated == first.negated for test in tests):
        if first.negated and len(tests) > 1:
            return None
        return Test("source", tuple(value for test in tests for value in test.values), first.negated)
    return None


def _lists(listener: Listener, phases: list[list[_Refusal]], proxy: Proxy) -> None:
    """Of the first phase that has rules by address; those of later phases would have to hold too."""
    used = [phase for phase in phases if phase]
    if not used:
        return
    for rule in (rule for phase in used[1:] for rule in phase):
        proxy.report.lost(
            rule.line.place, rule.line.text, "rules by address of one phase are converted: put them there"
        )
    rules: list[Rule] = []
    rest: list[Rule] | None = None
    for rule in used[0]:
        place = rule.line.place
        networks = EVERYBODY if rule.test.kind == "always" else rule.test.values
        found = [Rule(network_of(value), not rule.refuses, place) for value in networks]
        if not rule.test.negated and (rest is None or rule.refuses):
            rules += found
        elif rule.test.negated and rule.refuses and rest is None:
            rest = [one._replace(allow=True) for one in found]  # whoever is not among them is refused at the end
        else:
            proxy.report.lost(place, rule.line.text, "put what is accepted before what is refused")
    allow, deny = lists_of([*rules, *(rest or [])], allow_rest=rest is None)
    place = used[0][0].line.place
    why = "the longest prefix decides, not the order"
    if allow:
        listener.set("allow", allow, place, why)
    if deny:
        listener.set("deny", deny, place, "" if allow else why)


def _limit(listener: Listener, rule: _Refusal, proxy: Proxy, proxies: dict[str, Proxy]) -> None:
    kind, most = rule.test.values
    place = rule.line.place
    resets = "clients above it are reset, where HAProxy drops what they send" if rule.drops else ""
    if kind == "conn_cur":
        _per_source(listener, place, "sessions", int(most) or 1, resets)
        return
    period = _period(proxy, proxies)
    if period is None:
        proxy.report.lost(
            place, rule.line.text, "the period is that of conn_rate(...) in a stick-table, which is missing"
        )
        return
    rate = round(int(most) / period, 3)
    if rate < 1:
        proxy.report.lost(place, rule.line.text, "per_source.session_rate is one session a second at least")
        return
    _per_source(listener, place, "session_rate", f"{rate:g}/s", _BURST.format(period=period), resets)


def _per_source(listener: Listener, place: Place, key: str, value: object, *whys: str) -> None:
    option = listener.options.setdefault("per_source", Option({}, place))
    option.value[key] = value
    option.why = "; ".join(dict.fromkeys(why for why in (option.why, *whys) if why))


def _period(proxy: Proxy, proxies: dict[str, Proxy]) -> float | None:
    """Of conn_rate in the stick-table that is tracked: of the proxy's own, or of the one that a rule names."""
    names = [
        line.words[line.words.index("table") + 1]
        for phase in _PHASES
        for line in proxy.all(phase)
        if "table" in line.words[:-1]
    ]
    for owner in (proxies.get(names[0]) if names else None, proxy):
        for line in owner.all("stick-table") if owner is not None else []:
            for word in " ".join(line.words).replace(", ", ",").split():
                for stored in word.split(","):
                    if stored.startswith("conn_rate(") and (seconds := seconds_of(stored[10:].rstrip(")"))):
                        return seconds
    return None
