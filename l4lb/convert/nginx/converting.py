"""An nginx.conf as a draft: the section stream, or a file of what is in one."""

from __future__ import annotations

from l4lb.convert.drafting.directives import UNKNOWN, Fate, find
from l4lb.convert.drafting.draft import Draft, Option
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.values import duration, number
from l4lb.convert.nginx.blocks import Directive, parse
from l4lb.convert.nginx.including import Including
from l4lb.convert.nginx.keywords import MAIN, STREAM
from l4lb.convert.nginx.servers import add_server
from l4lb.convert.nginx.settings import report_directives, settings_of
from l4lb.convert.nginx.upstreams import Upstreams
from l4lb.convert.nginx.values import seconds_of
from l4lb.convert.nginx.variables import Variables

_OF_STREAM = ("upstream", "server", "map", "geo", "split_clients")
_LEVELS = {"debug": "debug", "info": "info", "notice": "info", "warn": "warning"}


def convert_nginx(text: str, file: str, report: Report) -> Draft:
    """ConfigError, with the line, for a text that is no nginx.conf, or an included one that is none."""
    draft = Draft(file)
    including = Including(file, report)
    parsed = parse(text, file)
    bare = any(one.name in _OF_STREAM for one in parsed) and not any(one.name in ("stream", "http") for one in parsed)
    main = parsed if bare else list(including.walk(parsed))
    if not bare:
        _main(draft, main, report)
    sections = [main] if bare else [one.block for one in main if one.name == "stream" and one.block is not None]
    for section in sections:
        _stream(draft, section, including, report)
    return draft


def _stream(draft: Draft, section: list[Directive], including: Including, report: Report) -> None:
    directives = list(including.walk(section))
    report_directives([one for one in directives if one.name not in _OF_STREAM], STREAM, report)

    def named(*names: str) -> list[Directive]:
        return [one for one in directives if one.name in names]

    upstreams = Upstreams(draft, named("upstream"), including, report)
    variables = Variables(named("map", "geo", "split_clients"), including, report)
    zones = {
        one.arguments[1].partition("=")[2].partition(":")[0]: one.arguments[0]
        for one in named("limit_conn_zone")
        if len(one.arguments) == 2
    }
    outer = [one for one in directives if one.block is None]
    for server in named("server"):
        settings = settings_of(server, outer, including, report)
        add_server(draft, settings, upstreams, variables, zones)
        _access_log(draft, settings.all("access_log"), report)
    for upstream in upstreams.unused():
        report.lost(upstream.place, f"upstream {upstream.name}", "no server that was converted leads to it")


def _main(draft: Draft, directives: list[Directive], report: Report) -> None:
    for directive in directives:
        found = find(MAIN, directive.name) or UNKNOWN
        value = directive.arguments[0] if directive.arguments else ""
        if found.fate is Fate.LOST:
            report.lost(directive.place, directive.text, found.says)
        elif directive.name == "worker_processes" and value != "auto":
            if count := number(value):
                draft.globals["workers"] = Option(count, directive.place)
            else:
                report.lost(directive.place, directive.text, "expected a number or auto")
        elif directive.name == "worker_cpu_affinity":
            if value == "auto":
                draft.globals["worker_affinity"] = Option(True, directive.place)
            else:
                report.lost(
                    directive.place, directive.text, "see worker_affinity, and the CPUs that the service manager gives"
                )
        elif directive.name == "worker_shutdown_timeout" and (seconds := seconds_of(value)):
            draft.globals["drain_timeout"] = Option(duration(seconds), directive.place)
        elif directive.name == "error_log":
            _error_log(draft, directive, report)


def _log_target(draft: Draft, directive: Directive, value: str) -> str:
    """For log and access_log; sets the address of syslog."""
    if value.startswith("syslog:"):
        given = dict(part.partition("=")[::2] for part in value.removeprefix("syslog:").split(","))
        server = given.get("server", "")
        if server.startswith("unix:") or not server:
            address = server or "unix:/dev/log"
        else:
            address = server if number(server.rpartition(":")[2]) and ":" in server else f"{server}:514"
        draft.globals["syslog"] = Option(address, directive.place)
        if "facility" in given:
            draft.globals["syslog_facility"] = Option(given["facility"], directive.place)
        return "syslog"
    return {"/dev/stdout": "stdout", "/dev/stderr": "stderr"}.get(value, value)


def _error_log(draft: Draft, directive: Directive, report: Report) -> None:
    if "log" in draft.globals:
        report.lost(directive.place, directive.text, "there is one log, which the line before it is for")
        return
    value, level = [*directive.arguments, "", ""][:2]
    target = _log_target(draft, directive, value)
    if not target.startswith("/") and target not in ("stderr", "syslog"):
        report.lost(directive.place, directive.text, "the log goes to stderr, syslog or a file with its whole path")
        return
    draft.globals["log"] = Option(target, directive.place)
    if level:
        draft.globals["log_level"] = Option(_LEVELS.get(level, "error"), directive.place)


def _access_log(draft: Draft, directives: list[Directive], report: Report) -> None:
    """The first place that is named; there is one for all listeners."""
    for directive in directives:
        value = directive.arguments[0] if directive.arguments else "off"
        if value == "off":
            continue
        if any(word.startswith("if=") for word in directive.arguments):
            report.lost(directive.place, directive.text, "the access log has all sessions")
        target = _log_target(draft, directive, value)
        known = draft.globals.get("access_log")
        if (known is not None and known.value != target) or not (
            target.startswith("/") or target in ("stdout", "syslog")
        ):
            report.lost(directive.place, directive.text, "there is one access log: stdout, syslog or a file")
        elif known is None:
            draft.globals["access_log"] = Option(target, directive.place)
