"""The directives of a server with those that it inherits from the section stream."""

from __future__ import annotations

from l4lb.convert.drafting.directives import UNKNOWN, Fate, Table, find
from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import Report
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.including import Including
from l4lb.convert.nginx.keywords import STREAM
from l4lb.convert.nginx.values import seconds_of


class Settings:
    """Of one server block."""

    def __init__(self, server: Directive, own: list[Directive], outer: list[Directive], report: Report) -> None:
        self.place, self.report = server.place, report
        self._own, self._outer = own, outer

    def all(self, *names: str) -> list[Directive]:
        """Its own, or where it has none those of the section, as nginx inherits."""
        own = [one for one in self._own if one.name in names]
        return own or [one for one in self._outer if one.name in names]

    def last(self, name: str) -> Directive | None:
        found = self.all(name)
        return found[-1] if found else None

    def value(self, name: str) -> str:
        """The first argument; empty when it is not given."""
        directive = self.last(name)
        return directive.arguments[0] if directive is not None and directive.arguments else ""

    def place_of(self, name: str) -> Place:
        directive = self.last(name)
        return directive.place if directive is not None else self.place

    def is_on(self, name: str) -> bool:
        return self.value(name) == "on"

    def seconds(self, name: str, default: float) -> float:
        """A broken time is reported, and the default holds."""
        text = self.value(name)
        found = seconds_of(text) if text else default
        if found is None:
            self.report.lost(self.place_of(name), f"{name} {text}", "expected a time such as 10s")
        return default if found is None else found


def report_directives(directives: list[Directive], table: Table, report: Report) -> None:
    """Name those that have no counterpart; what is converted reports its own details."""
    for directive in directives:
        found = find(table, directive.name) or UNKNOWN
        if found.fate is Fate.LOST:
            report.lost(directive.place, directive.text, found.says)


def parameters_of(directive: Directive, table: Table, report: Report) -> dict[str, str]:
    """Those behind an address by name, with what stands after =. Names those that have no counterpart."""
    given = {}
    for word in directive.arguments[1:]:
        name, _, value = word.partition("=")
        given[name] = value
        found = find(table, name) or UNKNOWN
        if found.fate is Fate.LOST:
            report.lost(directive.place, f"{directive.name} ... {word}", found.says)
    return given


def settings_of(server: Directive, outer: list[Directive], including: Including, report: Report) -> Settings:
    own = list(including.walk(server.block or []))
    report_directives(own, STREAM, report)
    return Settings(server, own, outer, report)
