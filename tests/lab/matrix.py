"""Every cell that was asked for, one after the other, as a table."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from l4lb.errors import AdminError
from tests.lab.cells import Cell
from tests.lab.checks import Check
from tests.lab.labs import Lab
from tests.lab.place import LabError

Make = Callable[[str, Cell], AbstractContextManager[Lab]]


def check(name: str, make: Make, checks: dict[str, Check], wanted: Sequence[Cell], stop: threading.Event) -> bool:
    """Whether all held. Ends before the next check when `stop` is set."""
    widths = {title: max(len(title), 6) for title in checks}
    print("mode    family  attach   ", *(title.ljust(width) for title, width in widths.items()), flush=True)
    problems: list[str] = []
    for cell in wanted:
        found, said = _cell(name, make, checks, cell, stop)
        print(f"{cell} ", *(found.get(title, "-").ljust(width) for title, width in widths.items()), flush=True)
        for one in said:
            print(f"  {one}", flush=True)
        problems += said
        if stop.is_set():
            return False
    print(f"{len(wanted)} checked, {'all hold' if not problems else f'{len(problems)} problems'}", flush=True)
    return not problems


def _cell(
    name: str, make: Make, checks: dict[str, Check], cell: Cell, stop: threading.Event
) -> tuple[dict[str, str], list[str]]:
    """What became of each check, and what was wrong."""
    found: dict[str, str] = {}
    problems: list[str] = []
    try:
        with make(name, cell) as lab:
            for title, one in checks.items():
                if stop.is_set():
                    break
                try:
                    one(lab)
                    found[title] = "ok"
                except (AssertionError, OSError, AdminError, subprocess.TimeoutExpired) as error:
                    found[title] = "FAILED"
                    problems.append(f"{title}: {type(error).__name__}: {error}")
    except (LabError, AssertionError) as error:
        problems.append(str(error))
    return found, problems
