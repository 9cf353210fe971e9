"""Conditions of HAProxy's rules: acls, anonymous ones in braces, and their combinations (its manual, 7.1 and 7.2), as
what l4lb can match."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from l4lb.convert.drafting.files import read_named
from l4lb.convert.drafting.networks import network_of
from l4lb.convert.drafting.values import bytes_text, names_of_regex, number
from l4lb.convert.haproxy.parameters import FETCHES
from l4lb.convert.haproxy.proxies import Proxy
from l4lb.convert.haproxy.words import Line

FILE_BYTES_MAX = 4 << 20
VALUES_MAX = 100_000  # of an acl, with those from files
ALTERNATIVES_MAX = 64  # of a condition, each of which becomes a route
_OR = ("or", "||")
_FETCH = re.compile(r"([A-Za-z0-9_.]+)(?:\(([^)]*)\))?((?:,[a-z0-9_]+(?:\([^)]*\))?)*)")
_PORTS = re.compile(r"[0-9]{1,9}(?::[0-9]{1,9})?", re.ASCII)
_FLAGS = {"-i": 0, "-n": 0, "-M": 0, "--": 0, "-f": 1, "-m": 1, "-u": 1}


class Test(NamedTuple):
    """What must hold, or must not. `kind` is an option of routes, or one of dst_port, conn_cur, conn_rate, always,
    never; `unknown` with the reason in `values`."""

    kind: str
    values: tuple[str, ...] = ()
    negated: bool = False


Condition = list[list[Test]]  # any of the lists, of which all must hold
ALWAYS: Condition = [[Test("always")]]


class Acls:
    """The acls of a proxy by name."""

    def __init__(self, proxy: Proxy) -> None:
        self._report = proxy.report
        self._tests: dict[str, list[Test]] = {name: [_criterion([name])] for name in ("TRUE", "FALSE", "WAIT_END")}
        self._tests["LOCALHOST"] = [Test("source", ("127.0.0.0/8", "::1"))]
        for line in proxy.all("acl"):
            if len(line.words) < 3:
                self._report.lost(line.place, line.text, "expected a name and what is matched")
                continue
            test = _criterion(list(line.words[2:]))
            if test.kind == "unknown":
                self._report.lost(line.place, line.text, test.values[0])
            _add(self._tests.setdefault(line.words[1], []), test)

    def condition(self, words: Sequence[str]) -> Condition | str:
        """Of what stands after a rule: ``if`` or ``unless``, or nothing. The reason when l4lb cannot match it."""
        if not words:
            return ALWAYS
        if words[0] not in ("if", "unless"):
            return f'"{words[0]}": expected if or unless'
        try:
            found = self._alternatives(list(words[1:]))
        except ValueError as error:
            return str(error)
        return found if words[0] == "if" else _negation(found)

    def _alternatives(self, words: list[str]) -> Condition:
        """ValueError with the reason."""
        result: Condition = []
        for part in _split(words, _OR):
            alternatives: Condition = [[]]
            for negated, criterion in _terms(part):
                tests = self._named(criterion)
                alternatives = _combined(alternatives, tests, negated)
            result += alternatives
            if len(result) > ALTERNATIVES_MAX:
                raise ValueError("too many alternatives")
        return result

    def _named(self, criterion: list[str]) -> list[Test]:
        if len(criterion) == 1 and criterion[0] in self._tests:
            tests = self._tests[criterion[0]]
        elif len(criterion) == 1:
            raise ValueError(
                f'"{criterion[0]}": neither an acl of this section nor a predefined one that l4lb can match'
            )
        else:
            tests = [_criterion(criterion[1:-1])]
        for test in tests:
            if test.kind == "unknown":
                raise ValueError(test.values[0])
        return tests


def _add(tests: list[Test], test: Test) -> None:
    """Another line of the same acl: either may hold."""
    for index, other in enumerate(tests):
        if other.kind == test.kind and test.kind in ("source", "sni", "alpn", "starts_with", "dst_port"):
            tests[index] = Test(test.kind, tuple(dict.fromkeys([*other.values, *test.values])))
            return
    tests.append(test)


def _combined(alternatives: Condition, tests: list[Test], negated: bool) -> Condition:
    """With one more term, which is any of `tests`, or none of them."""
    if negated:
        return [[*tests_before, *(test._replace(negated=True) for test in tests)] for tests_before in alternatives]
    if len(alternatives) * len(tests) > ALTERNATIVES_MAX:
        raise ValueError("too many alternatives")
    return [[*before, test] for before in alternatives for test in tests]


def _negation(condition: Condition) -> Condition | str:
    """None of the alternatives, where each is one test."""
    if any(len(tests) != 1 for tests in condition):
        return "unless with several conditions: write it with if"
    return [[test._replace(negated=not test.negated) for (test,) in condition]]


def _split(words: list[str], at: tuple[str, ...]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _terms(words: list[str]) -> list[tuple[bool, list[str]]]:
    """Names of acls, and anonymous criteria with their braces. ValueError for what is neither."""
    terms = []
    negated, index = False, 0
    while index < len(words):
        word = words[index]
        while word.startswith("!"):
            negated, word = not negated, word[1:]
        if word == "{":
            end = next((at for at in range(index, len(words)) if words[at] == "}"), -1)
            if end < index + 2:
                raise ValueError("expected { condition }, with blanks around it")
            terms.append((negated, ["{", *words[index + 1 : end], "}"]))
            negated, index = False, end
        elif word:
            terms.append((negated, [word]))
            negated = False
        index += 1
    if not terms or negated:
        raise ValueError("expected a condition")
    return terms


def _criterion(words: list[str]) -> Test:
    """What is fetched, flags and values."""
    match = _FETCH.fullmatch(words[0])
    if match is None or match[1] not in FETCHES:
        return _unknown(f"{words[0]}: l4lb does not match that; it has sni, alpn, first bytes and addresses")
    try:
        method, values = _flags_and_values(words[1:])
    except ValueError as error:
        return _unknown(str(error))
    converters = [one.partition("(")[0] for one in match[3].split(",")[1:]]
    return _READERS.get(match[1], _read_constant)(_Fetched(match[1], match[2] or "", converters, method, values))


class _Fetched(NamedTuple):
    name: str
    arguments: str
    converters: list[str]
    method: str
    values: list[str]


def _unknown(reason: str) -> Test:
    return Test("unknown", (reason,))


def _flags_and_values(words: list[str]) -> tuple[str, list[str]]:
    """The method of -m, and the values with those of -f. ValueError for a file."""
    method, values, index = "", [], 0
    while index < len(words) and words[index] in _FLAGS:
        flag = words[index]
        argument = words[index + 1] if _FLAGS[flag] and index + 1 < len(words) else ""
        index += 1 + _FLAGS[flag]
        if flag == "--":
            break
        if flag == "-m":
            method = argument
        elif flag == "-f":
            values += _values_of_file(argument)
    return method, [*values, *words[index:]]


def _values_of_file(path: str) -> list[str]:
    lines = read_named(path, FILE_BYTES_MAX).split("\n")
    values = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if len(values) > VALUES_MAX:
        raise ValueError(f"{path}: more than {VALUES_MAX} values")
    return values


def _read_constant(found: _Fetched) -> Test:
    return Test("never" if found.name in ("FALSE", "always_false") else "always")


def _read_source(found: _Fetched) -> Test:
    if found.method not in ("", "ip") or found.converters:
        return _unknown("src: only addresses and networks are matched")
    try:
        networks = [network_of(value) for value in found.values]
    except ValueError as error:
        return _unknown(f"src: {error}")
    return Test("source", tuple(map(str, networks))) if networks else _unknown("src: without an address")


def _read_sni(found: _Fetched) -> Test:
    if set(found.converters) - {"lower"}:
        return _unknown("the name is matched as it comes, in lower case")
    names: list[str] = []
    for value in found.values:
        match found.method:
            case "" | "str":
                names.append(value.lower())
            case "end":
                bare = value.lstrip(".").lower()
                names += [f"*.{bare}"] if value.startswith(".") else [bare, f"*.{bare}"]
            case "reg" if names_of_regex(value):
                names += names_of_regex(value) or []
            case _:
                return _unknown(f'-m {found.method} "{value}": names are matched whole, or all below a name: *.NAME')
    return Test("sni", tuple(names)) if names else _unknown("whether there is a name is not matched")


def _read_hello(found: _Fetched) -> Test:
    return (
        Test("starts_with", ("hex:1603",)) if found.values == ["1"] else _unknown("only a ClientHello, 1, is matched")
    )


def _read_alpn(found: _Fetched) -> Test:
    if found.method not in ("", "str") or found.converters or not found.values:
        return _unknown("protocols are matched whole")
    return Test("alpn", tuple(found.values))


def _read_payload(found: _Fetched) -> Test:
    offset, _, _ = found.arguments.partition(",")
    if offset.strip() != "0" or set(found.converters) - {"hex"} or not found.values:
        return _unknown("only the first bytes are matched, from 0 on")
    as_hex = found.method == "bin" or "hex" in found.converters
    if found.method not in ("", "str", "beg", "bin"):
        return _unknown(f"-m {found.method}: first bytes are matched whole: str, beg or bin")
    try:
        data = [bytes.fromhex(value) if as_hex else value.encode() for value in found.values]
    except ValueError:
        return _unknown("expected pairs of hexadecimal digits")
    return Test("starts_with", tuple(map(bytes_text, data)))


def _read_port(found: _Fetched) -> Test:
    values = [value for value in found.values if value != "eq"]
    if not values or not all(map(_PORTS.fullmatch, values)) or found.converters:
        return _unknown("dst_port: expected ports or ranges of ports")
    return Test("dst_port", tuple(values))


def _read_above(kind: str) -> Callable[[_Fetched], Test]:
    def read(found: _Fetched) -> Test:
        match found.values:
            case ["gt", text] if (most := number(text)) is not None:
                return Test(kind, (str(most),))
            case ["ge", text] if (most := number(text)) is not None and most > 0:
                return Test(kind, (str(most - 1),))
        return _unknown(f"{found.name}: expected gt or ge and a number")

    return read


_READERS: dict[str, Callable[[_Fetched], Test]] = {
    "src": _read_source,
    "req.ssl_sni": _read_sni,
    "req_ssl_sni": _read_sni,
    "req.ssl_hello_type": _read_hello,
    "req_ssl_hello_type": _read_hello,
    "req.ssl_alpn": _read_alpn,
    "req.payload": _read_payload,
    "payload": _read_payload,
    "dst_port": _read_port,
}
for _name in FETCHES:
    if _name.endswith(("conn_cur", "conn_rate")):
        _READERS[_name] = _read_above("conn_cur" if _name.endswith("cur") else "conn_rate")


def alternatives_of(words: Sequence[str]) -> list[Sequence[str]]:
    """A condition as several, of which any may hold: what cannot be matched of one does not take the others along."""
    if words[:1] != ("if",):
        return [words]
    return [("if", *part) for part in _split(list(words[1:]), _OR)]


def rule_condition(line: Line, start: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a rule from `start` on: what it does, and its condition."""
    words = line.words[start:]
    at = next((index for index, word in enumerate(words) if word in ("if", "unless")), len(words))
    return words[:at], words[at:]
