"""The global section."""

from __future__ import annotations

from l4lb.convert.drafting.directives import UNKNOWN, Fate, find
from l4lb.convert.drafting.draft import Draft, Option
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.values import duration, number
from l4lb.convert.haproxy.keywords import GLOBAL, SECTIONS
from l4lb.convert.haproxy.proxies import Proxy, seconds_of
from l4lb.convert.haproxy.sections import Section
from l4lb.convert.haproxy.words import Line

_STREAMS = ("stdout", "stderr")
_LEVELS = {"emerg": "error", "alert": "error", "crit": "error", "err": "error", "warning": "warning",
           "notice": "info", "info": "info", "debug": "debug"}  # fmt: skip
_VARIABLES = ("setenv", "presetenv", "unsetenv", "resetenv")


def add_globals(draft: Draft, sections: list[Section], proxies: list[Proxy], report: Report) -> None:
    """Of all sections that are no proxies; `proxies` are those that were converted."""
    for section in sections:
        if section.kind == "global":
            for line in section.lines:
                _global(draft, line, report)
        elif (directive := find(SECTIONS, section.kind)) is not None and directive.fate is Fate.LOST:
            report.lost(section.place, f"{section.kind} {section.name}".rstrip(), directive.says)
    _access_log(draft, proxies, report)


def _global(draft: Draft, line: Line, report: Report) -> None:
    key = line.words[1] if line.words[0] == "no" and len(line.words) > 1 else line.words[0]
    value = line.words[1] if len(line.words) > 1 else ""
    directive = find(GLOBAL, key) or UNKNOWN
    if directive.fate is Fate.LOST:
        report.lost(line.place, line.text, directive.says)
    elif key == "log":
        _log(draft, line, report)
    elif key in ("maxconn", "nbthread"):
        count = number(value)
        if count:
            draft.globals["max_sessions" if key == "maxconn" else "workers"] = Option(count, line.place)
        elif count is None:
            report.lost(line.place, line.text, "expected a number")
    elif key == "hard-stop-after":
        if (seconds := seconds_of(value)) is None:
            report.lost(line.place, line.text, "expected a time such as 30s")
        elif seconds:
            draft.globals["drain_timeout"] = Option(duration(seconds), line.place)


def _log(draft: Draft, line: Line, report: Report) -> None:
    """The first target; l4lb has one."""
    words = [word for word in line.words[1:] if word]
    if not words or words == ["global"]:
        return
    if "log" in draft.globals:
        report.lost(line.place, line.text, "there is one log, which the line before it is for")
        return
    target = words[0]
    if target in _STREAMS:
        draft.globals["log"] = Option("stderr", line.place)
    elif (address := _syslog(target)) is not None:
        draft.globals["log"] = Option("syslog", line.place)
        draft.globals["syslog"] = Option(address, line.place)
    else:
        report.lost(line.place, line.text, "the log goes to stderr, a file or syslog: see log and syslog")
        return
    _details(draft, line, words[1:])


def _syslog(target: str) -> str | None:
    if target.startswith("/"):
        return f"unix:{target}"
    family, at, address = target.rpartition("@")
    if at and family not in ("ipv4", "ipv6", "udp", "udp4", "udp6"):
        return None
    host, colon, port = address.rpartition(":")
    if not colon or number(port) is None:
        host, port = address, "514"
    host = host.strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _details(draft: Draft, line: Line, words: list[str]) -> None:
    """What follows the target: pairs of words, the facility, and the least severe level."""
    plain = [word for before, word in zip(["", *words], words, strict=False) if {word, before}.isdisjoint(_PAIRS)]
    if plain and draft.globals["log"].value == "syslog":
        draft.globals["syslog_facility"] = Option(plain[0], line.place)
    if len(plain) > 1 and plain[1] in _LEVELS:
        draft.globals["log_level"] = Option(_LEVELS[plain[1]], line.place)


_PAIRS = {"len", "format", "sample", "profile"}


def _access_log(draft: Draft, proxies: list[Proxy], report: Report) -> None:
    """A line for each session, where some section logs."""
    line = next((line for proxy in proxies for line in [proxy.last("log")] if line is not None), None)
    if line is None:
        return
    if line.words[1:2] != ("global",):
        _log(draft, line, report)
    if "log" not in draft.globals:
        return
    target = "syslog" if draft.globals["log"].value == "syslog" else "stdout"
    draft.globals["access_log"] = Option(target, line.place, "a line for each session; HAProxy logs sections with log")
