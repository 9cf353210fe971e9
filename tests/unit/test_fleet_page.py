"""docs/fleet.md says what is: its options, metrics, events, commands and bounds are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from l4lb.cli.fleet.group import fleet
from l4lb.config.options.process import FleetConfig
from l4lb.control.fleet import place, store
from l4lb.control.fleet.fleet import _AGAIN_S
from l4lb.control.fleet.keys import BANS, DRAIN, HISTORY, NODES, history_key
from l4lb.control.fleet.member import _SESSIONS_EVERY_S
from l4lb.control.fleet.shared_bans import SHARED_MAX

PAGE = Path("docs/fleet.md").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text() for path in Path("l4lb/control").rglob("*.py"))


def test_every_option_of_the_url_is_there() -> None:
    table = PAGE.partition("| option |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(place.OPTIONS)
    assert f"default `{place.TIMEOUT_S:g}s`, at most `{place.TIMEOUT_MAX_S:g}s`" in table


def test_every_metric_and_event_is_there_and_no_other() -> None:
    for pattern in (r"l4lb_fleet_\w+", r"\bfleet_\w+"):
        emitted = {
            name for name in re.findall(rf'"({pattern})"', CODE) if name not in ("fleet_lease", "fleet_draining")
        }
        said = set(re.findall(rf"`({pattern})`", PAGE))
        assert said == emitted


@pytest.mark.parametrize("group", [fleet, fleet.commands["config"]])
def test_every_command_is_there(group: click.Group) -> None:
    for name in set(group.commands) - {"config"}:
        path = f"config {name}" if name not in fleet.commands else name
        assert f"l4lb fleet {path}" in PAGE, path


def test_the_keys_and_bounds_are_those_of_the_code() -> None:
    for key in (f"{history_key(12)}", f"{NODES}NAME", f"{DRAIN}NAME", f"{BANS}192.0.2.0/24`, `{BANS}192.0.2.0/24@web"):
        assert f"| `{key}` |" in PAGE
    assert history_key(12).startswith(HISTORY)
    assert f"the latest {store.HISTORY_MAX} generations" in PAGE
    ttl_s = FleetConfig().node_ttl
    assert f"a lease of {ttl_s:g} s, kept alive every {ttl_s // 3:g} s" in PAGE
    assert f"There may be {SHARED_MAX:,};" in PAGE
    assert f"tries again every {_AGAIN_S:g} seconds" in PAGE
    assert _SESSIONS_EVERY_S == 5
    assert "docs/fleet.md" in Path("README.md").read_text(encoding="utf-8")
