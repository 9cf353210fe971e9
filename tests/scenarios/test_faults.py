"""Every system call of the data plane fails, in turn, in every way that its man page has and this use of it can meet,
while clients of all kinds are there. The long form, with all of them at every rate, is `make faults`.

Whatever fails: the process goes on, nobody gets another's bytes, no cut stream looks finished, no session stays,
nothing leaks, what is counted adds up, and traffic works as soon as the fault is over.
"""

from __future__ import annotations

import errno as e
import os
import socket
from pathlib import Path

import pytest

from tests.support.faults import INTO_SOCKET, OUT_OF_SOCKET, TCP, UDP, UNIX
from tests.support.faulty import Stand, standing

LONG_FORM = bool(os.environ.get("L4LB_FAULTS_ALL"))
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3
UDP_GRO, IP_RECVTOS, F_SETPIPE_SZ, SO_MEMINFO, SIOCOUTQ = 104, 13, 1031, 55, 0x5411
STREAMS = TCP | UNIX
NETWORK = (e.EHOSTUNREACH, e.ENETUNREACH, e.ENETDOWN, e.ETIMEDOUT)

# What is called: (call, errnos of the short form, those of the long form besides, on which descriptors). A `0` is a
# call that is made with a small size.
Row = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, int]]
CALLS: dict[str, list[Row]] = {
    "accepting": [
        (
            *("accept", (e.EMFILE, e.ECONNABORTED, e.EPERM)),
            (e.ENFILE, e.ENOBUFS, e.ENOMEM, e.EINTR, e.EPROTO, e.ENOPROTOOPT, e.EHOSTDOWN, e.ENONET, *NETWORK),
            {},
        ),
        ("epoll_ctl", (e.ENOSPC,), (e.ENOMEM,), {"argument": EPOLL_CTL_ADD, "kinds": STREAMS}),
    ],
    "connecting": [
        ("socket", (e.EMFILE,), (e.ENFILE, e.ENOBUFS, e.ENOMEM, e.EACCES, e.EAFNOSUPPORT), {}),
        (
            *("connect", (e.EADDRNOTAVAIL, e.ECONNREFUSED, e.EAGAIN, e.EPERM)),
            (e.EACCES, e.EADDRINUSE, e.ENOBUFS, e.ENOMEM, e.EINTR, e.ENOENT, e.ECONNRESET, *NETWORK),
            {},
        ),
        ("bind", (e.EADDRNOTAVAIL,), (e.EADDRINUSE, e.EACCES, e.ENOMEM), {}),
        ("getsockopt", (e.ENOBUFS,), (), {"argument": socket.SO_ERROR}),
    ],
    "reading": [
        (
            *("recv", (e.ECONNRESET, e.EINTR, e.EAGAIN, e.ENOMEM)),
            (e.ENOTCONN, e.EPIPE, e.EIO, *NETWORK),
            {"kinds": STREAMS},
        ),
    ],
    "writing": [
        (
            *("send", (e.EPIPE, e.EAGAIN, e.ENOBUFS, 0)),
            (e.ECONNRESET, e.ENOMEM, e.EINTR, e.EACCES, e.EPERM, *NETWORK),
            {"kinds": STREAMS},
        ),
        ("shutdown", (e.ENOTCONN,), (), {}),
        ("ioctl", (e.EINVAL,), (), {"argument": SIOCOUTQ}),
    ],
    "splicing": [
        (
            *("splice", (e.ECONNRESET, e.EINVAL, e.EAGAIN, e.ENOMEM, 0)),
            (e.EINTR, e.ENOSYS, e.ETIMEDOUT, e.EHOSTUNREACH),
            {"argument": OUT_OF_SOCKET},
        ),
        (
            *("splice", (e.EPIPE, e.EAGAIN, e.ENOMEM, 0)),
            (e.ECONNRESET, e.EINTR, e.EINVAL, e.ENOBUFS, *NETWORK),
            {"argument": INTO_SOCKET},
        ),
        ("pipe", (e.EMFILE,), (e.ENFILE,), {}),
        ("fcntl", (e.EPERM,), (e.EBUSY, e.ENOMEM), {"argument": F_SETPIPE_SZ}),
    ],
    "waiting": [
        ("epoll_wait", (e.EINTR, 0), (), {}),
        ("epoll_ctl", (e.ENOSPC,), (e.ENOMEM,), {"argument": EPOLL_CTL_MOD}),
        ("epoll_ctl", (e.ENOMEM,), (e.ENOSPC,), {"argument": EPOLL_CTL_ADD, "kinds": UDP}),
        # Of the eventfds. A write to one that does not block fails only when it is full, and then it wakes already.
        ("read", (e.EAGAIN,), (), {}),
    ],
    "receiving datagrams": [
        (
            *("recvmmsg", (e.ECONNREFUSED, e.EHOSTUNREACH, e.EINTR, e.ENOMEM, 0)),
            (e.EMSGSIZE, e.ENOBUFS, e.EPROTO, e.ENOPROTOOPT, e.EACCES, e.ENETUNREACH, e.ENETDOWN),
            {},
        ),
        ("recv", (e.ECONNREFUSED,), (e.EHOSTUNREACH, e.EMSGSIZE, e.EINTR), {"kinds": UDP}),
    ],
    "sending datagrams": [
        (
            *("sendmmsg", (e.EAGAIN, e.EHOSTUNREACH, e.EINTR, e.EIO, 0)),
            (e.ENOBUFS, e.ENOMEM, e.EPERM, e.EACCES, e.EMSGSIZE, e.EINVAL, e.ENETUNREACH, e.ENETDOWN, e.ECONNREFUSED),
            {},
        ),
        (
            *("send", (e.ECONNREFUSED, e.ENOBUFS)),
            (e.EAGAIN, e.EINTR, e.ENOMEM, e.EPERM, e.EACCES, e.EMSGSIZE, e.EINVAL, *NETWORK),
            {"kinds": UDP},
        ),
    ],
    "options": [
        ("setsockopt", (e.ENOMEM,), (e.EPERM,), {"argument": socket.TCP_NODELAY}),
        ("setsockopt", (e.ENOMEM,), (e.EPERM,), {"argument": socket.TCP_QUICKACK}),
        ("setsockopt", (e.EPERM,), (), {"kinds": UDP}),
        ("getsockopt", (e.ENOBUFS,), (), {"argument": SO_MEMINFO}),
    ],
    "memory": [("malloc", (e.ENOMEM,), (), {})],
}
RATES = (1000, 300, 50) if LONG_FORM else (300,)
MAY_NOT_BE_MET = {"sendmsg", "ioctl", "read", "write", "shutdown", "malloc", "recv", "getsockopt"}


# The short form starts fewer processes.
GROUPS = [[name] for name in CALLS] if LONG_FORM else [list(CALLS)[i : i + 3] for i in range(0, len(CALLS), 3)]


def check(stand: Stand, call: str, error: int, permille: int, where: dict[str, int]) -> None:
    what = {**where, "permille": permille, "amount": 1 if call in ("recvmmsg", "sendmmsg", "epoll_wait") else 700}
    rule = stand.faults.inject(call, error, **what)
    stand.traffic(rule, times=2 if LONG_FORM else 1, fault_s=1.0 if LONG_FORM else 0.5)
    assert rule.hit or permille < 1000 or call in MAY_NOT_BE_MET, f"{call} was not called"
    stand.assert_works()
    stand.assert_calm()


def outlive(stand: Stand, row: Row) -> None:
    call, few, more, where = row
    for error in (*few, *more) if LONG_FORM else few:
        for permille in RATES:
            try:
                check(stand, call, error, permille, where)
            except AssertionError as failed:
                name = e.errorcode.get(error, "small")
                pytest.fail(f"{call} {name} at {permille}: {failed}\n{stand.process.log}")


@pytest.mark.parametrize("groups", GROUPS, ids=", ".join)
def test_traffic_outlives_every_error(tmp_path: Path, groups: list[str]) -> None:
    tmp_path.chmod(0o755)
    with standing(tmp_path) as stand:
        for row in (row for group in groups for row in CALLS[group]):
            outlive(stand, row)
        stand.assert_counts()
        stand.assert_calm()
        stand.assert_server_content()
        stand.end()
