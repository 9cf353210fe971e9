"""What docs/scale-out.md says of a fleet, in the lab of `make lab ARGS="--fleet --check"`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.lab.fleet.checks import CHECKS
from tests.lab.fleet.lab import Engine, fleet
from tests.lab.fleet.router import Spreading
from tests.lab.fleet.running import PROGRAMS
from tests.support.programs import require
from tests.support.users import require_root

PAGE = Path("docs/scale-out.md")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "spreading"), [("proxy", "resilient"), ("kernel", "plain")])
def test_a_fleet_is_as_the_page_says(engine: Engine, spreading: Spreading) -> None:
    require_root()
    for program in PROGRAMS:
        require(program)
    if engine == "kernel":
        pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")
    with fleet(f"l4fl-{os.getpid()}-{engine}", engine, spreading) as lab:
        for check in CHECKS.values():
            check(lab)


def test_the_checks_that_the_page_names_are_there() -> None:
    section = PAGE.read_text().partition("## When a part dies")[2].partition("\n## ")[0]
    named = re.findall(r"\| `([^`]+)` \|$", section, re.MULTILINE)
    assert named
    assert set(named) <= CHECKS.keys()
