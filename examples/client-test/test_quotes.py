"""The client against servers in trouble."""

from __future__ import annotations

import pytest
from quotes import QuoteClient, QuoteError

from l4lb.testing import BackendPool, TcpBackend

Pool = BackendPool[TcpBackend]


def test_an_answer(l4lb_pool: Pool) -> None:
    assert QuoteClient(l4lb_pool.host, l4lb_pool.port).ask("hello") == "hello"


def test_a_server_that_is_away_is_not_noticed(l4lb_pool: Pool) -> None:
    """The balancer goes on to the next one."""
    client = QuoteClient(l4lb_pool.host, l4lb_pool.port, attempts=1, timeout=20)
    with l4lb_pool.backends[0].refuse():
        assert [client.ask("hello") for _ in range(3)] == ["hello"] * 3


def test_an_answer_that_breaks_off_is_asked_for_again(l4lb_pool: Pool) -> None:
    client = QuoteClient(l4lb_pool.host, l4lb_pool.port, timeout=20)
    first, second, _ = l4lb_pool.backends
    first.cut_after(3)
    second.reset_after(0)
    assert client.ask("hello") == "hello"


def test_servers_that_say_nothing(l4lb_pool: Pool) -> None:
    client = QuoteClient(l4lb_pool.host, l4lb_pool.port, attempts=2, timeout=0.2)
    for backend in l4lb_pool.backends:
        backend.hang()
    with pytest.raises(QuoteError, match="no answer after 2 attempts") as caught:
        client.ask("hello")
    assert isinstance(caught.value.__cause__, TimeoutError)
    l4lb_pool.heal()
    assert QuoteClient(l4lb_pool.host, l4lb_pool.port, timeout=20).ask("hello") == "hello"
