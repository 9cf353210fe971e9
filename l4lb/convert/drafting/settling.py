"""What l4lb itself would refuse is taken out of a draft and named, so that the result of a conversion is always a
configuration that `l4lb check` takes. The source may have any value, and combinations that only other programs know."""

from __future__ import annotations

from l4lb.config import Config
from l4lb.convert.drafting.draft import Draft
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.writing import Written, text_of, written
from l4lb.errors import ConfigError, Problem

_ROUNDS_MAX = 100  # each takes something out; those of one round do not depend on each other


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
    """Whether anything was."""
    taken = False
    for problem in problems:
        owner = lines[problem.line - 1] if 0 < problem.line <= len(lines) else None
        if owner is not None and owner.remove is not None and owner.place is not None:
            owner.remove()
            report.lost(owner.place, owner.what, f"l4lb does not take it: {problem.message}")
            taken = True
    return taken


def _drop_unused(draft: Draft, report: Report) -> None:
    """Pools that no listener leads to, and listeners whose pool was not converted."""
    for name, listener in list(draft.listeners.items()):
        wanted = [listener.options["pool"].value] if "pool" in listener.options else []
        if not wanted or wanted[0] not in draft.pools:
            del draft.listeners[name]
            report.lost(listener.place, f"listener {name}", "nothing that was converted is behind it")
    used = {listener.options["pool"].value for listener in draft.listeners.values()}
    for listener in draft.listeners.values():
        for route in listener.routes:
            used |= {route.options["pool"].value} if "pool" in route.options else set(route.options["split"].value)
    for name in [name for name in draft.pools if name not in used]:
        pool = draft.pools.pop(name)
        report.lost(pool.place, f"pool {name}", "no listener that was converted leads to it")
