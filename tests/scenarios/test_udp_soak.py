"""UDP at scale: every datagram is where it should be, or in a counter. The long forms run with L4LB_SOAK=1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import LoadBalancer
from l4lb.config import PassiveConfig
from l4lb.model.states import DropReason
from tests.support.balancing import address_of, balancing
from tests.support.soaking import Crowd, EchoBackend
from tests.support.waiting import wait_until

SOAK = bool(os.environ.get("L4LB_SOAK"))
CLIENTS = 200


@contextlib.contextmanager
def crowd_of(address: str, **options: Any) -> Iterator[Crowd]:
    crowd = Crowd(address, CLIENTS, **{"window": 8, "window_bytes": 100_000, "seed": 7, **options})
    try:
        yield crowd
    finally:
        crowd.close()


@contextlib.contextmanager
def echo_backends(count: int) -> Iterator[list[EchoBackend]]:
    backends = [EchoBackend() for _ in range(count)]
    try:
        yield backends
    finally:
        for backend in backends:
            backend.stop()


class Balance:
    """Where the datagrams of a run are, once none is under way."""

    def __init__(self, balancer: LoadBalancer, crowd: Crowd, backends: list[EchoBackend]) -> None:
        stats = balancer.stats()
        self.counted = stats.pools["web"].backends
        self.dropped = stats.listeners["web"].dropped
        self.late = sum(worker.late_answers for worker in stats.workers)
        self.up = sum(one.datagrams_up for one in self.counted.values())
        self.down = sum(one.datagrams_down for one in self.counted.values())
        self.sent, self.received, self.client_drops = crowd.sent, crowd.received, crowd.dropped
        self.answered = sum(one.answered for one in backends)

    def of(self, *reasons: DropReason) -> int:
        return sum(self.dropped.get(reason, 0) for reason in reasons)

    @property
    def lost_to_clients(self) -> int:
        return self.of(DropReason.ANSWER_NOT_SENT) + self.client_drops

    @property
    def holds(self) -> bool:
        """Both ways together: the kernel's drops of listening and of backend sockets have one counter."""
        lost = sum(self.dropped.values()) - self.of(DropReason.ANSWER_NOT_SENT) + self.late
        return (
            self.sent + self.answered == self.up + self.down + lost
            and self.down == self.received + self.lost_to_clients
        )

    def __repr__(self) -> str:
        return str(self.__dict__)


def settled(balancer: LoadBalancer, crowd: Crowd, backends: list[EchoBackend]) -> Balance:
    """The balance, once it holds: until then some are on their way. Those that wait at a backend are in no counter, and
    nothing may be missing without them."""

    def holds() -> bool:
        crowd.hear(0.01)
        return all(backend.idle for backend in backends) and Balance(balancer, crowd, backends).holds

    done = wait_until(holds, 20)
    balance = Balance(balancer, crowd, backends)
    assert done, balance
    return balance


@pytest.mark.alone
@pytest.mark.parametrize(
    ("limits", "arrive"),
    [({}, 0.9), ({"udp_gro": False}, 0.9), ({"udp_requests": 3}, 0.9), ({"udp_responses": 2}, 0.1)],
)
def test_every_datagram_arrives_or_is_counted_while_a_backend_restarts(limits: dict[str, Any], arrive: float) -> None:
    """Sessions end now and then, so that the one that restarts gets new ones. With udp_responses most answers come too
    late here: clients do not wait for one before they send more."""
    listener = {"protocol": "udp", "max_session_duration": 1.0, **limits}
    count = 1_000_000 if SOAK and not limits else 20_000
    with echo_backends(3) as backends:
        options = {"passive": PassiveConfig(failures=0)}  # the one that restarts is to be tried again and again
        with balancing([one.address for one in backends], listener=listener, **options) as balancer:
            ordered = not {"udp_requests", "udp_responses"} & limits.keys()
            with crowd_of(address_of(balancer), ordered=ordered) as crowd:
                *stable, restarting = backends
                restarting.restart_every(1000)
                crowd.exchange(count)
                balance = settled(balancer, crowd, backends)
                for backend in backends:
                    backend.stop()
                assert [backend.wrong for backend in backends] == [[], [], []]
                for backend in stable:
                    assert balance.counted[backend.address].datagrams_up == backend.received + backend.dropped
                    assert backend.answered == backend.received
                died = balance.counted[restarting.address].datagrams_up - restarting.received - restarting.dropped
                assert restarting.restarts >= count // 50_000 + 1
                assert 0 <= died <= restarting.restarts * CLIENTS * 8
                lost = died + sum(one.dropped for one in backends) + balance.late + balance.client_drops
                assert balance.sent - balance.received == lost + sum(balance.dropped.values()), balance
                assert balance.received >= arrive * balance.sent, balance


@pytest.mark.parametrize("responses", [0, 1])
def test_nothing_is_lost_without_reason(responses: int) -> None:
    """No backend fails and no queue is full: then none is."""
    with echo_backends(3) as backends:
        listener = {"protocol": "udp", "udp_responses": responses}
        with balancing([one.address for one in backends], listener=listener) as balancer:
            with crowd_of(address_of(balancer), window=1) as crowd:
                crowd.exchange(100_000 if SOAK else 5_000, patience_s=30)
                balance = settled(balancer, crowd, backends)
                assert balance.received == balance.sent, balance
                assert not balance.dropped
