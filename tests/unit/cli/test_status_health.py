"""What `l4lb status` says of a backend's health, in a fleet and without one."""

from __future__ import annotations

import pytest

from l4lb.cli.status import health_text


@pytest.mark.parametrize(
    ("own", "fleet", "text", "style"),
    [
        ("up", None, "up", "green"),
        ("down", "down", "down", "red"),
        ("down", "up", "down, fleet: up", "green"),
        ("unknown", "down", "unknown, fleet: down", "red"),
    ],
)
def test_what_counts_decides_the_colour(own: str, fleet: str | None, text: str, style: str) -> None:
    shown = health_text({"health": own, "fleet_health": fleet})
    assert (shown.plain, shown.style) == (text, style)
