"""What these tests take for answers has the shape of the API's."""

from __future__ import annotations

from l4lb.control.reporting import shapes
from tests.unit.cli.top import samples


def test_samples_have_the_shape_of_the_api() -> None:
    assert samples.backend("a").keys() <= shapes.Backend.__annotations__.keys()
    assert samples.pool("a").keys() <= shapes.Pool.__annotations__.keys()
    assert samples.listener("a").keys() <= shapes.Listener.__annotations__.keys()
    assert samples.status().keys() <= shapes.Status.__annotations__.keys()
    assert samples.status()["workers"][0].keys() == shapes.Worker.__annotations__.keys()
    assert samples.session("1").keys() == shapes.Session.__annotations__.keys()
    assert samples.source("::1").keys() == shapes.Source.__annotations__.keys()
    assert samples.ban("::1").keys() == shapes.Ban.__annotations__.keys()
