"""Every system call of the data plane fails, in turn, in every way that its man page has and this use of it can meet,
while clients of all kinds are there. The long form, with all of them at every rate, is `make faults`.

Whatever fails: the process goes on, nobody gets another's bytes, no cut stream looks finished, no session stays,
nothing leaks, what is counted adds up, and traffic works as soon as the fault is over.
"""

from __future__ import annotations

import errno as e
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.faults import INTO_SOCKET, LISTENING, OUT_OF_SOCKET, TCP, UDP, UNIX, Faults
from tests.support.faulty import Stand, standing
from tests.support.peers import Server, echo
from tests.support.programs import free_port, l4lb
from tests.support.soaking import EchoBackend
from tests.support.waiting import wait_until

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


def check(stand: Stand, call: str, error: int, permille: int, where: dict[str, int]) -> int:
    """How many calls failed. Traffic is repeated for one that is seldom made."""
    what = {**where, "permille": permille, "amount": 1 if call in ("recvmmsg", "sendmmsg", "epoll_wait") else 700}
    rule = stand.faults.inject(call, error, **what)
    for _ in range(3):
        stand.traffic(rule, times=2 if LONG_FORM else 1, fault_s=1.0 if LONG_FORM else 0.5)
        if rule.hit or permille < 1000 or call in MAY_NOT_BE_MET:
            break
    stand.assert_works()
    stand.assert_calm()
    return rule.hit


def outlive(stand: Stand, row: Row) -> None:
    """All its errors at all rates. The call must be met at least once; later it may not be, since pipes and sockets to
    UDP backends are kept for the next session."""
    call, few, more, where = row
    met = 0
    for error in (*few, *more) if LONG_FORM else few:
        for permille in RATES:
            try:
                met += check(stand, call, error, permille, where)
            except AssertionError as failed:
                name = e.errorcode.get(error, "small")
                pytest.fail(f"{call} {name} at {permille}: {failed}\n{stand.process.log}")
    assert met or call in MAY_NOT_BE_MET or max(RATES) < 1000, f"{call} was not called"


@pytest.mark.parametrize("groups", GROUPS, ids=", ".join)
def test_traffic_outlives_every_error(tmp_path: Path, groups: list[str]) -> None:
    rows = [row for group in groups for row in CALLS[group]]
    # In the long form each call has a process of its own: one that has served keeps pipes and sockets for later.
    for number, some in enumerate([[row] for row in rows] if LONG_FORM else [rows]):
        directory = tmp_path / str(number)
        directory.mkdir()
        tmp_path.chmod(0o755)
        with standing(directory) as stand:
            for row in some:
                outlive(stand, row)
            stand.assert_counts()
            stand.assert_calm()
            stand.assert_server_content()
            stand.end()


def test_a_listening_socket_that_could_not_be_watched_is_watched_again(tmp_path: Path) -> None:
    """After a pause for want of file descriptors. The kernel goes on giving each worker's socket its share of the
    clients: one that stayed unwatched would leave them waiting for ever."""
    tmp_path.chmod(0o755)
    with standing(tmp_path) as stand:
        missed = stand.faults.inject("epoll_ctl", e.ENOSPC, kinds=LISTENING, argument=EPOLL_CTL_ADD)
        pausing = stand.faults.inject("accept", e.EMFILE, count=8)
        fault_over = threading.Timer(0.7, lambda: stand.faults.lift(missed))
        fault_over.start()
        stand.traffic(pausing, times=4, fault_s=0.5)
        fault_over.join()
        assert missed.hit > 2
        stand.traffic(times=4)
        stand.assert_calm()
        stand.end()


OWN_MALLOC = pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has a malloc of its own")


@pytest.mark.parametrize(
    ("call", "protocol"),
    [("epoll_ctl", "tcp"), ("epoll_ctl", "udp"), pytest.param("malloc", "udp", marks=OWN_MALLOC)],
)
def test_a_listener_that_comes_with_a_reload_is_served_once_it_can_be(tmp_path: Path, call: str, protocol: str) -> None:
    """Whatever was short when a worker took it over. Others go, so that those left change places in its list."""
    tmp_path.chmod(0o755)
    new, one, two = free_port(), free_port(), free_port()
    head = f'[admin]\nbind = "unix:{tmp_path}/admin.sock"\n[global]\nworkers = 2\n'
    listened = '[listeners.{}]\nbind = "127.0.0.1:{}"\nprotocol = "{}"\npool = "{}"\n'
    file = tmp_path / "lb.toml"
    with EchoBackends() as backends, Faults() as shim:
        pools = f"""
[pools.tcp]
backends = ["{backends.stream}"]
health = {{ type = "none" }}
[pools.udp]
backends = ["{backends.datagrams}"]
health = {{ type = "none" }}
"""
        first = listened.format("going", one, "tcp", "tcp") + listened.format("staying", two, "tcp", "tcp")
        if call != "malloc":  # a worker allocates what UDP needs with its first such listener
            first += listened.format("there", free_port(), "udp", "udp")
        file.write_text(head + pools + first)
        with l4lb("serve", "-c", str(file), environment=shim.environment, admin=True) as process:
            process.wait_for("admin listening")
            added = listened.format("staying", two, "tcp", "tcp") + listened.format("new", new, protocol, protocol)
            file.write_text(head + pools + added)
            how = {"argument": EPOLL_CTL_ADD, "kinds": LISTENING | UDP} if call == "epoll_ctl" else {}
            fault = shim.inject(call, e.ENOMEM, **how)
            process.signal(signal.SIGHUP)
            process.wait_for("reloaded")
            assert wait_until(lambda: fault.hit)
            shim.lift(fault)
            for _ in range(20):  # both workers get some of them
                assert ask(("127.0.0.1", new), protocol) == b"question"
                assert ask(("127.0.0.1", two), "tcp") == b"question"


def ask(address: tuple[str, int], protocol: str) -> bytes:
    """What an echo at `address` answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        sock.connect(address)
        sock.send(b"question")
        return sock.recv(100)


class EchoBackends:
    """An echo of streams and one of datagrams."""

    def __enter__(self) -> EchoBackends:
        self._stream, self._datagrams = Server(echo), EchoBackend()
        self.stream, self.datagrams = self._stream.address, self._datagrams.address
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.stop()
        self._datagrams.stop()


@pytest.mark.parametrize(
    ("call", "error", "said", "every"),
    [
        ("socket", e.EMFILE, "Too many open files", 1),
        ("socket", e.EAFNOSUPPORT, "not supported", 1),
        ("bind", e.EACCES, "Permission denied", 1),
        ("bind", e.EADDRNOTAVAIL, "assign requested address", 1),
        ("setsockopt", e.ENOBUFS, "No buffer space", 1),
        ("eventfd", e.EMFILE, "Too many open files", 1),
        ("eventfd", e.EMFILE, "Too many open files", 2),
        ("eventfd", e.EMFILE, "Too many open files", 3),
    ],
)
def test_a_start_that_fails_says_so_in_a_line(call: str, error: int, said: str, every: int) -> None:
    """Whatever was short: no traceback, no process that looks started."""
    with Faults() as shim:
        what = {"threads": faults.CONTROL | faults.OTHERS, "every": every}
        if call != "eventfd":
            what |= {"kinds": TCP, "argument": socket.SO_REUSEPORT} if call == "setsockopt" else {}
            what |= {"argument": socket.AF_INET | faults.STREAM} if call == "socket" else {}
        rule = shim.inject(call, error, **what)
        arguments = ("serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9", "--workers", "2")
        with l4lb(*arguments, environment=shim.environment) as process:
            assert process.wait(30) in (1, 2), process.log
            assert rule.hit
            assert said in process.log, process.log
            assert "Traceback" not in process.log, process.log
