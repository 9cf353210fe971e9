from __future__ import annotations

from l4lb.config.reading.positions import Positions

TEXT = """\
top = 1
[global]          # a comment
"workers" = 2
[pools.web]
backends = [
  "a:1",          # comment
  { address = "b:1", weight = 2 },
]
health.interval = "1s"
[[listeners.web.routes]]
sni = []
[[listeners.web.routes]]
sni = ["x"]
"""


def test_lines() -> None:
    positions = Positions(TEXT)
    assert positions.line_of(("top",)) == 1
    assert positions.line_of(("global", "workers")) == 3
    assert positions.line_of(("pools", "web", "backends", 0)) == 6
    assert positions.line_of(("pools", "web", "backends", 1, "weight")) == 7
    assert positions.line_of(("pools", "web", "health", "interval")) == 9
    assert positions.line_of(("listeners", "web", "routes", 1, "sni")) == 13


def test_what_is_not_there_has_the_line_of_what_is_above_it() -> None:
    positions = Positions(TEXT)
    assert positions.line_of(("pools", "web", "policy")) == 4
    assert positions.line_of(("nothing", "here")) == 0
