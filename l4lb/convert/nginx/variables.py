"""map, geo and split_clients: which pool a variable leads to, as the routes of a listener."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.networks import network_of
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.values import names_of_regex, number
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.including import Including

WAYS_MAX = 4096
STEPS_MAX = 20_000  # variables that are followed for one server
DEPTH_MAX = 8  # of variables that lead to each other
_TLS = ("hex:1603",)
_KINDS = {
    "$ssl_preread_server_name": "sni",
    "$ssl_preread_alpn_protocols": "alpn",
    "$ssl_preread_protocol": "starts_with",
    "$remote_addr": "source",
    "$binary_remote_addr": "source",
    "$server_port": "port",
}
_ALPN = re.compile(r"(?:\\b|\^|,)?([A-Za-z0-9./-]+|[A-Za-z0-9/-]+(?:\\\.[0-9]+)?)(?:\\b|\$|,)?")
_WEIGHTS_OF = 100  # a percent is so many: percents have two places
Conditions = dict[str, tuple[str, ...]]


class Way(NamedTuple):
    """Clients that match `conditions` go to `target`, or by weight to those of `split`; nowhere, where `target` is
    empty."""

    conditions: Conditions
    target: str
    place: Place
    split: tuple[tuple[str, int], ...] = ()


class _Entry(NamedTuple):
    """A line of a block. `values` empty: the default."""

    values: tuple[str, ...]
    target: str
    place: Place


class Variables:
    """Of the blocks of a section stream."""

    def __init__(self, blocks: list[Directive], including: Including, report: Report) -> None:
        self._report = report
        self._blocks: dict[str, tuple[Directive, list[Directive]]] = {}
        self._steps = 0
        for block in blocks:
            if block.arguments and block.block is not None:
                self._blocks[block.arguments[-1]] = block, list(including.walk(block.block))

    def port_begins(self, text: str) -> set[int]:
        """The ports from which on clients may be led elsewhere, where `text` leads by the port that they came to."""
        begins: set[int] = set()
        seen: set[str] = set()
        rest = [text]
        while rest:
            name = _name(text := rest.pop())
            if not text.startswith("$") or name in seen or name not in self._blocks:
                continue
            seen.add(name)
            block, lines = self._blocks[name]
            if self._kind(block) == "port":
                ports = [port for line in lines if (port := number(line.name)) is not None]
                begins |= {begin for port in ports for begin in (port, port + 1)}
            rest += [one.words[1] for one in lines if len(one.words) == 2]
        return begins

    def ways(self, text: str, place: Place, port: int) -> list[Way]:
        """In order, the first that matches decides. Reports what cannot be matched."""
        self._steps = 0
        return self._follow(text, place, port, 0)

    def _follow(self, text: str, place: Place, port: int, depth: int) -> list[Way]:
        if not text.startswith("$") or text == "$server_port":
            return [Way({}, text, place)]
        name = _name(text)
        self._steps += 1
        if name not in self._blocks or depth >= DEPTH_MAX or self._steps > STEPS_MAX:
            why = "only variables of map, geo and split_clients lead to pools, and only some by way of others"
            self._report.lost(place, text, why)
            return []
        block, lines = self._blocks[name]
        if block.name == "split_clients":
            return self._split(lines, place)
        ways: list[Way] = []
        for entry in self._entries(block, lines, port):
            literal = block.name == "geo" or not entry.target  # geo replaces no variables
            goals = _literal(entry) if literal else self._follow(entry.target, entry.place, port, depth + 1)
            for inner in goals:
                kind = self._kind(block)
                both = inner.conditions if not entry.values else _both(kind, entry.values, inner.conditions)
                if both is None:
                    self._report.lost(entry.place, entry.target, f"two conditions on {kind} must hold")
                elif len(ways) < WAYS_MAX:
                    ways.append(inner._replace(conditions=both))
        return ways

    def _kind(self, block: Directive) -> str:
        return "source" if block.name == "geo" else _KINDS.get(_name(block.arguments[0]), "")

    def _entries(self, block: Directive, lines: list[Directive], port: int) -> list[_Entry]:
        """In the order in which they decide; the default last."""
        kind = self._kind(block)
        if block.name == "geo" and len(block.arguments) == 2 and block.arguments[0] != "$remote_addr":
            kind = ""
        if not kind:
            self._report.lost(
                block.place, block.text, "l4lb does not match that; it has sni, alpn, first bytes, addresses"
            )
            return []
        read = {"sni": self._names, "alpn": self._protocols, "starts_with": self._tls, "source": self._networks}
        default = [
            _Entry((), one.words[1], one.place) for one in lines if one.name == "default" and len(one.words) == 2
        ]
        if kind == "port":
            return [*self._ports(lines, port)][:1] or default[-1:]
        hostnames = any(one.words == ["hostnames"] for one in lines)
        entries = [
            one for one in lines if len(one.words) == 2 and one.name not in ("default", "ranges", "proxy", "delete")
        ]
        found = read[kind](entries, hostnames)
        if kind == "starts_with":
            found = _with_tls(found, default)
        return [*found, *default[-1:]]

    def _names(self, lines: list[Directive], hostnames: bool) -> list[_Entry]:
        """Exact names first, then the longest ends, then expressions in their order."""
        ranked: list[tuple[int, int, _Entry]] = []
        for line in lines:
            key = line.name.lower()
            if key.startswith("~"):
                names = names_of_regex(line.name.lstrip("~").lstrip("*"))
                rank = (2, 0)
            elif hostnames and key.startswith("*."):
                names, rank = [key], (1, -len(key))
            elif hostnames and key.startswith("."):
                names, rank = [key[1:], f"*{key}"], (1, -len(key))
            else:
                names, rank = ([key] if re.fullmatch(r"[a-z0-9_.-]+", key) else None), (0, 0)
            if names is None:
                why = "names are matched whole, or all below a name: *.NAME"
                self._report.lost(line.place, line.text, why)
            else:
                ranked.append((*rank, _Entry(tuple(names), line.words[1], line.place)))
        return [entry for _, _, entry in sorted(ranked, key=lambda one: one[:2])]

    def _protocols(self, lines: list[Directive], hostnames: bool) -> list[_Entry]:
        entries = []
        for line in lines:
            match = _ALPN.fullmatch(line.name.lstrip("~*"))
            if match is None:
                self._report.lost(line.place, line.text, "protocols are matched whole")
            else:
                entries.append(_Entry((match[1].replace("\\.", "."),), line.words[1], line.place))
        return entries

    def _tls(self, lines: list[Directive], hostnames: bool) -> list[_Entry]:
        """Any version is a ClientHello; the empty text is all others."""
        found: list[_Entry] = []
        for line in lines:
            values = () if not line.name else _TLS if line.name.startswith(("TLS", "~")) else None
            if values is None:
                self._report.lost(line.place, line.text, "expected TLSv1.2, TLSv1.3 or an empty text")
                continue
            if same := next((entry for entry in found if entry.values == values), None):
                if same.target != line.words[1]:
                    self._report.lost(line.place, line.text, "all versions of TLS go the same way")
                continue
            found.append(_Entry(values, line.words[1], line.place))
        return found

    def _networks(self, lines: list[Directive], hostnames: bool) -> list[_Entry]:
        """The longest prefix first, as geo decides."""
        found = []
        for line in lines:
            try:
                network = network_of(line.name)
            except ValueError:
                self._report.lost(line.place, line.text, "expected an address or a network")
                continue
            found.append(
                (network.prefixlen - network.max_prefixlen, _Entry((str(network),), line.words[1], line.place))
            )
        return [entry for _, entry in sorted(found, key=lambda one: -one[0])]

    def _ports(self, lines: list[Directive], port: int) -> Iterator[_Entry]:
        for line in lines:
            if number(line.name) == port and len(line.words) == 2:
                yield _Entry((), line.words[1], line.place)

    def _split(self, lines: list[Directive], place: Place) -> list[Way]:
        """Percents as weights; * has what is left."""
        shares: list[tuple[str, int]] = []
        for line in lines:
            percent = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,2})?)%", line.name)
            left = 100 * _WEIGHTS_OF - sum(weight for _, weight in shares)
            if len(line.words) != 2 or not (percent or line.name == "*"):
                self._report.lost(line.place, line.text, "expected a percentage or *, and a name")
                continue
            weight = round(float(percent[1]) * _WEIGHTS_OF) if percent else left
            shares.append((line.words[1], max(min(weight, left), 0)))
        return [Way({}, "", place, tuple(shares))] if shares else []


def _name(text: str) -> str:
    """Of a variable, with or without braces."""
    return f"${text[1:].strip('{}')}"


def _with_tls(found: list[_Entry], default: list[_Entry]) -> list[_Entry]:
    """TLS first. Where a map says what is no TLS, its default is for TLS."""
    tls, plain = [one for one in found if one.values], [one for one in found if not one.values]
    if plain and not tls:
        tls = [one._replace(values=_TLS) for one in default[-1:]]
    return tls + plain


def _literal(entry: _Entry) -> list[Way]:
    return [Way({}, entry.target, entry.place)]


def _both(kind: str, values: tuple[str, ...], inner: Conditions) -> Conditions | None:
    """`inner` with one more; None when it has another of the kind."""
    if kind in inner and inner[kind] != values:
        return None
    both = {**inner, kind: values}
    if both.get("starts_with") == _TLS and ("sni" in both or "alpn" in both):
        del both["starts_with"]
    return both
