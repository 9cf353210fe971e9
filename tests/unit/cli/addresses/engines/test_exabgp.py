"""ExaBGP's side of its process API: pipes that answer, say nothing, break, or are full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb.cli.addresses.engine import DaemonGone, EngineError
from l4lb.cli.addresses.engines import exabgp as module
from l4lb.cli.addresses.engines.exabgp import ExaBgp
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.prefixes import Routes, parse_prefixes


def routes(*prefixes: str, **more: Any) -> Routes:
    return Routes(parse_prefixes(prefixes), 100, 1000, **more)


class Pipes:
    def __init__(self, engine_routes: Routes, peers: tuple[str, ...] = (), syntax: int = 4) -> None:
        self._inbox, self.answers = os.pipe()
        self.commands, self._outbox = os.pipe()
        self.engine = ExaBgp(engine_routes, peers, syntax, self._inbox, self._outbox)
        self._open = {self._inbox, self.answers, self.commands, self._outbox}

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self._open):
            os.close(fd)
            self._open.discard(fd)

    def written(self) -> list[str]:
        return os.read(self.commands, 1 << 16).decode().splitlines()

    def answer(self, data: bytes) -> None:
        os.write(self.answers, data)
        self.engine.receive()


@contextlib.contextmanager
def pipes(*given: Any) -> Iterator[Pipes]:
    made = Pipes(*given)
    try:
        yield made
    finally:
        made.close()


def test_what_is_written() -> None:
    made = routes(
        "192.0.2.10/32", "2001:db8::10/128", communities=("65001:1", "no-export"), next_hops=((6, "fd00::1"),)
    )
    with pipes(made) as at:
        at.engine.apply(Level.NORMAL)
        assert at.written() == [
            "announce route 192.0.2.10/32 next-hop self med 100 community [ 65001:1 no-export ]",
            "announce route 2001:db8::10/128 next-hop fd00::1 med 100 community [ 65001:1 no-export ]",
        ]
        at.engine.apply(Level.WITHDRAWN)
        assert at.written() == [
            "withdraw route 192.0.2.10/32 next-hop self",
            "withdraw route 2001:db8::10/128 next-hop fd00::1",
        ]


@pytest.mark.parametrize(
    ("peers", "syntax", "begin"),
    [
        ((), 6, ["peer * "]),
        (("10.0.0.1", "fd00::1"), 6, ["peer 10.0.0.1 ", "peer fd00::1 "]),
        (("10.0.0.1", "10.0.0.2"), 4, ["neighbor 10.0.0.1 ", "neighbor 10.0.0.2 "]),
    ],
)
def test_to_whom(peers: tuple[str, ...], syntax: int, begin: list[str]) -> None:
    with pipes(routes("192.0.2.10"), peers, syntax) as at:
        at.engine.apply(Level.DRAINING)
        assert at.written() == [f"{one}announce route 192.0.2.10/32 next-hop self med 1000" for one in begin]


def test_an_error_names_its_command() -> None:
    with pipes(routes("192.0.2.10", "192.0.2.11")) as at:
        at.engine.apply(Level.NORMAL)
        at.answer(b"done\ner")
        with pytest.raises(EngineError, match=r"'error: no\?such' to: announce route 192\.0\.2\.11/32"):
            at.answer(b"ror: no\x1bsuch\n")
        with pytest.raises(EngineError, match="to: a command"):
            at.answer(b"error\n")


def test_what_is_no_answer_is_left_alone() -> None:
    with pipes(routes("192.0.2.10", "192.0.2.11")) as at:
        at.engine.apply(Level.NORMAL)
        at.answer(b'{"neighbor": {}}\n\n\xff\xfe\nshutdown\ndone\n')
        at.answer(b"x" * 60000)
        at.answer(b"x" * 60000)
        with pytest.raises(EngineError, match=r"192\.0\.2\.11"):
            at.answer(b"\nerror\n")


def test_exabgp_ends() -> None:
    with pipes(routes("192.0.2.10")) as at:
        at.close(at.answers)
        with pytest.raises(DaemonGone, match="has ended"):
            at.engine.receive()
        at.close(at.commands)
        with pytest.raises(DaemonGone, match="reads no more"):
            at.engine.apply(Level.NORMAL)


def fill(engine: ExaBgp) -> None:
    for _ in range(10_000):
        engine.apply(Level.NORMAL)


def test_one_that_reads_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITTEN_WITHIN_S", 0.05)
    with pipes(routes("192.0.2.10")) as at:
        with pytest.raises(EngineError, match="has read nothing"):
            fill(at.engine)
        text = os.read(at.commands, 1 << 20)
        assert text.endswith(b"\n"), "no line is cut"
        at.engine.apply(Level.NORMAL)
