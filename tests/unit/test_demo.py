"""The demo's ports: preferred ones where they are free, others where they are not."""

from __future__ import annotations

import socket

import pytest

from l4lb import demo
from l4lb.errors import ConfigError
from tests.support.peers import connect


@pytest.mark.parametrize("times", [1, 4])
def test_a_port_that_is_taken_after_the_look_at_it(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        seen = iter([taken.getsockname()[1]] * times)
        monkeypatch.setattr(demo, "_port", lambda preferred, kind=None: 0 if kind else next(seen, 0))
        with demo.running_demo() as running:
            connect(running.address).close()


def test_an_error_that_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo, "_port", lambda preferred, kind=None: 0 if kind else port)
        with pytest.raises(ConfigError, match="in use"), demo.running_demo():
            pass
