"""A haproxy.cfg as a draft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from l4lb.convert.drafting.draft import Draft
from l4lb.convert.drafting.report import Report
from l4lb.convert.haproxy.frontends import add_listeners
from l4lb.convert.haproxy.globals import add_globals
from l4lb.convert.haproxy.pools import pool_of
from l4lb.convert.haproxy.proxies import Proxy, proxies_of, report_lines
from l4lb.convert.haproxy.sections import Section, read_sections

_PAGE = "HAProxy's page of statistics; l4lb's dashboard is at [admin] bind"
_HTTP = "mode http: l4lb forwards connections and reads no HTTP. With mode tcp it would be converted"


def convert_haproxy(text: str, file: str, environment: Mapping[str, str], report: Report) -> Draft:
    """ConfigError, with the line, for a text that is no haproxy.cfg."""
    sections = read_sections(text, file, environment, report)
    draft = Draft(file)
    proxies = list(_in_layer_4(proxies_of(sections, report), report))
    add_globals(draft, sections, proxies, report)
    by_name = _pools(draft, proxies, report)
    for proxy in proxies:
        if proxy.kind != "backend":
            add_listeners(draft, proxy, by_name)
    if proxies:
        used = [proxy.section for proxy in proxies]
        report_lines([*used, *_defaults(sections, proxies)], report)
    return draft


def _in_layer_4(proxies: list[Proxy], report: Report) -> Iterator[Proxy]:
    """Without those of mode http, which are named, and disabled ones."""
    for proxy in proxies:
        line = proxy.last("disabled", "enabled")
        if line is not None and line.words[0] == "disabled":
            continue
        if proxy.mode == "tcp":
            yield proxy
        else:
            why = _PAGE if proxy.has_stats else _HTTP
            report.lost(
                proxy.place, f"{proxy.kind} {proxy.name}", why if proxy.mode == "http" else f"mode {proxy.mode}"
            )


def _pools(draft: Draft, proxies: list[Proxy], report: Report) -> dict[str, Proxy]:
    """Fill in those of the draft; the proxies that they come from, by name."""
    by_name: dict[str, Proxy] = {}
    for proxy in proxies:
        by_name.setdefault(proxy.name, proxy)
        if proxy.kind == "frontend":
            continue
        if proxy.name in draft.pools:
            report.lost(proxy.place, f"{proxy.kind} {proxy.name}", "another section has this name")
        elif (pool := pool_of(proxy)) is not None:
            draft.pools[proxy.name] = pool
            by_name[proxy.name] = proxy
        elif proxy.kind == "backend" or not (proxy.last("default_backend") or proxy.all("use_backend")):
            report.lost(proxy.place, f"{proxy.kind} {proxy.name}", "it has no servers that were converted")
    return by_name


def _defaults(sections: list[Section], proxies: list[Proxy]) -> list[Section]:
    """The defaults sections whose lines some proxy has."""
    lines = {line.place for proxy in proxies for line in proxy.inherited}
    return [one for one in sections if one.kind == "defaults" and any(line.place in lines for line in one.lines)]
