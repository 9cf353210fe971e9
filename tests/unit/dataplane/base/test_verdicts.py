"""The data plane's table of errnos and that of the health checks are one table."""

from __future__ import annotations

import errno
import socket

import pytest

from l4lb.model.states import ConnectFailure, Shortage
from l4lb.model.verdicts import ADVICE, Verdict, failure_of, shortage_of, shortage_of_bind, verdict_of

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
NUMBERS = range(1, 134)  # all of errno.h


def native_shortage(number: int) -> Shortage | None:
    return tuple(Shortage)[number - 1] if number else None


@pytest.mark.parametrize("reported", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_tables_say_the_same_of_every_errno(family: int, reported: bool) -> None:
    for number in NUMBERS:
        failure, shortage = probe.errno_failure(number, family, reported)
        said = tuple(ConnectFailure)[failure], native_shortage(shortage)
        name = errno.errorcode.get(number, number)
        assert said == (failure_of(number, family, reported=reported), shortage_of(number, family)), name
        assert native_shortage(probe.errno_of_bind(number, family)) is shortage_of_bind(number, family), name


def test_own_wants_are_those_that_name_what_was_short() -> None:
    for number in NUMBERS:
        own = verdict_of(number, socket.AF_INET) is Verdict.OWN
        assert own == (shortage_of(number, socket.AF_INET) is not None) == (number in OWN)


OWN = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EADDRNOTAVAIL, errno.EADDRINUSE),
    *(errno.EAGAIN, errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT),
}
VERDICTS = [
    (errno.EAGAIN, socket.AF_UNIX, False, Verdict.PEER),  # its queue is full
    (errno.EAGAIN, socket.AF_INET, False, Verdict.OWN),
    (errno.ECONNREFUSED, socket.AF_UNIX, False, Verdict.PEER),
    (errno.ENOENT, socket.AF_UNIX, False, Verdict.PEER),
    (errno.ECONNRESET, socket.AF_INET, True, Verdict.PEER),
    (errno.EHOSTUNREACH, socket.AF_INET, True, Verdict.PATH),
    (errno.EINVAL, socket.AF_INET, False, Verdict.PATH),  # a blackhole route
    (errno.ETIMEDOUT, socket.AF_INET, True, Verdict.PATH),
    (errno.EACCES, socket.AF_INET6, False, Verdict.OWN),  # a route that prohibits
    (errno.EACCES, socket.AF_INET6, True, Verdict.PATH),  # a router that does
    (errno.EXDEV, socket.AF_INET, False, Verdict.PATH),  # whatever that may mean
]


@pytest.mark.parametrize(("number", "family", "reported", "verdict"), VERDICTS)
def test_verdicts(number: int, family: int, reported: bool, verdict: Verdict) -> None:
    assert verdict_of(number, family, reported=reported) is verdict


def test_only_descriptors_and_memory_are_short_for_every_backend() -> None:
    everywhere = {number for number in NUMBERS if probe.shortage_everywhere(number, socket.AF_INET)}
    assert everywhere == {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}


def test_there_is_advice_for_each() -> None:
    assert set(ADVICE) == set(Shortage)
