"""What l4lb itself would refuse is taken out of a draft and named, so that the result of a conversion is always a
configuration that `l4lb check` takes. The source may have any value, and combinations that only other programs know."""

from __future__ import annotations

import re

from l4lb.config import Config
from l4lb.convert.drafting.draft import Draft, Option
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.writing import Written, text_of, written
from l4lb.errors import ConfigError, Problem

_ROUNDS_MAX = 100  # each takes something out; those of one round do not depend on each other
_ELEMENT = re.compile(r"\.(?:bind|proxy_trusted|allow|deny|sni|alpn|source|starts_with)\[([0-9]+)\]$")


def settle(draft: Draft, report: Report) -> str:
    """The text of the configuration; empty when nothing is left that could be served."""
    for _ in range(_ROUNDS_MAX):
        _drop_unused(draft, report)
        if not draft.listeners:
            return ""
        lines = written(draft)
        text = text_of(lines)
        try:
            Config.loads(text)
        except ConfigError as error:
            if not _take_out(lines, error.problems, report):
                raise
        else:
            return text
    return ""


def _take_out(lines: list[Written], problems: tuple[Problem, ...], report: Report) -> bool:
    """Whether anything was. Of a list whose elements stand for themselves only those that are wrong, while others are
    left."""
    taken = False
    wrong: dict[int, tuple[Option, set[int]]] = {}
    for problem in problems:
        owner = lines[problem.line - 1] if 0 < problem.line <= len(lines) else None
        if owner is None or owner.remove is None or owner.place is None:
            continue
        element = _ELEMENT.search(problem.path)
        if element is not None and owner.option is not None and isinstance(owner.option.value, list):
            wrong.setdefault(id(owner.option), (owner.option, set()))[1].add(int(element[1]))
            if len(wrong[id(owner.option)][1]) >= len(owner.option.value):
                owner.remove()
        else:
            owner.remove()
        report.lost(owner.place, owner.what, f"l4lb does not take it: {problem.message}")
        taken = True
    for option, indices in wrong.values():
        option.value = [one for index, one in enumerate(option.value) if index not in indices]
    return taken


def _drop_unused(draft: Draft, report: Report) -> None:
    """Pools without backends, listeners without an address or a pool, and pools that no listener leads to."""
    for name, pool in list(draft.pools.items()):
        if not pool.backends and "discovery" not in pool.tables:
            del draft.pools[name]
            report.lost(pool.place, f"pool {name}", "it has no servers that were converted")
    for name, listener in list(draft.listeners.items()):
        if "bind" not in listener.options:
            del draft.listeners[name]
            report.lost(listener.place, f"listener {name}", "it has no address that was converted")
        elif "pool" not in listener.options or listener.options["pool"].value not in draft.pools:
            del draft.listeners[name]
            report.lost(listener.place, f"listener {name}", "nothing that was converted is behind it")
    used = {listener.options["pool"].value for listener in draft.listeners.values()}
    for listener in draft.listeners.values():
        for route in listener.routes:
            used |= {route.options["pool"].value} if "pool" in route.options else set(route.options["split"].value)
    for name in [name for name in draft.pools if name not in used]:
        pool = draft.pools.pop(name)
        report.lost(pool.place, f"pool {name}", "no listener that was converted leads to it")
