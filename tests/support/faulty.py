"""The stand of the fault tests: `l4lb serve` with every kind of listener, whose system calls can be made to fail, a
real server behind it, and mixed traffic whose every byte is checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from l4lb import Client
from tests.soak import questions, streams
from tests.soak.questions import Asker
from tests.soak.streams import Kind, Outcome
from tests.support.faults import Faults, Rule
from tests.support.leaky import leaks_in
from tests.support.programs import L4lb, free_port, l4lb, without_preload
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 2
drain_timeout = "2s"
log_level = "info"
[admin]
bind = "unix:{dir}/admin.sock"
[listeners.web]
bind = "127.0.0.1:{web}"
pool = "web"
idle_timeout = "5s"
half_close_timeout = "3s"
[listeners.splicing]
bind = "127.0.0.1:{splicing}"
pool = "web"
splice = "always"
idle_timeout = "5s"
half_close_timeout = "3s"
[listeners.headed]
bind = "127.0.0.1:{headed}"
pool = "headed"
accept_proxy = "any"
proxy_trusted = ["127.0.0.0/8"]
proxy_timeout = "3s"
idle_timeout = "5s"
half_close_timeout = "3s"
[listeners.local]
bind = "unix:{dir}/local.sock"
pool = "local"
idle_timeout = "5s"
half_close_timeout = "3s"
[listeners.asked]
bind = "127.0.0.1:{asked}"
protocol = "udp"
pool = "asked"
idle_timeout = "300ms"
[listeners.once]
bind = "127.0.0.1:{once}"
protocol = "udp"
pool = "asked"
udp_responses = 1
idle_timeout = "300ms"
"""
POOL = """
[pools.{name}]
backends = ["{address}"]
health = {{ type = "none" }}
passive = {{ failures = 0 }}
"""
SMALL = Kind("small", (0, 3000), (0, 3000), streams.content.LINGER)
MIDDLE = Kind("middle", (300_000, 600_000), (300_000, 600_000), streams.content.BOTH_AT_ONCE | streams.content.LINGER)
SHORT_KEEP = Kind("keep", (0, 3000), (0, 5000), streams.content.LINGER, rounds=(3, 6))
HALF = Kind("half", (1, 200_000), (1, 200_000), streams.content.ANSWER_AFTER_FIN, half_closes=True)
LISTENERS = ("web", "splicing", "headed", "local")
NEVER = {"short", "wrong", "foreign"}


class Stand:
    def __init__(self, process: L4lb, faults: Faults, ports: dict[str, int], directory: Path) -> None:
        self.process = process
        self.faults = faults
        self.ports = ports
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.addresses["local"] = f"unix:{directory}/local.sock"
        self.admin = f"unix:{directory}/admin.sock"
        self.server_log = directory / "server.log"
        self.calm: Counter[str] = Counter()

    # ---- traffic ----

    def _streams(self, kinds: tuple[Kind, ...], within_s: float) -> list[Coroutine[Any, Any, Outcome]]:
        return [
            streams.run(kind, name, self.addresses[name], headed=name == "headed", within_s=within_s)
            for name in LISTENERS
            for kind in kinds
        ]

    async def _one_each(self) -> list[str]:
        """What does not work now."""
        asked = ("asked", "once")
        tried = await asyncio.gather(
            *self._streams((SMALL,), 5.0),
            *(questions.converse(name, self.addresses[name], 1, patience_s=5.0) for name in asked),
        )
        return [
            str(one if isinstance(one, Outcome) else (one.listener, one.counts))
            for one in tried
            if (one.how != "ok" if isinstance(one, Outcome) else one.counts["answered"] != 1 or one.wrong)
        ]

    def assert_works(self) -> None:
        """At once, on every listener."""
        failed = uvloop.run(self._one_each())
        assert failed == [], f"after the fault: {failed}"

    async def _traffic(self, fault: Rule | None, kinds: tuple[Kind, ...], fault_s: float) -> list[Outcome | Asker]:
        """What came of it; a fault is lifted after a while, so that nobody has a reason to wait any more."""
        running = [asyncio.ensure_future(one) for one in self._streams(kinds, 15.0)]
        asking = [
            asyncio.ensure_future(questions.converse(name, self.addresses[name], 4, patience_s=0.2))
            for name in ("asked", "once")
            for _ in range(3)
        ]
        both = [*running, *asking]
        await asyncio.wait(both, timeout=fault_s)
        if fault is not None:
            self.faults.lift(fault)
        return list(await asyncio.gather(*both))

    def traffic(self, fault: Rule | None = None, times: int = 1, fault_s: float = 1.0) -> list[Outcome | Asker]:
        """Of all kinds at once. AssertionError when anything is wrong, except that sessions fail under a fault."""
        kinds = (SMALL, SMALL, SHORT_KEEP, MIDDLE, HALF) * times
        done = uvloop.run(self._traffic(fault, kinds, fault_s))
        outcomes = [one for one in done if isinstance(one, Outcome)]
        askers = [one for one in done if isinstance(one, Asker)]
        # A reset cannot be told from an end on a unix socket.
        bad = [one for one in outcomes if one.how in NEVER and not (one.listener == "local" and one.how == "short")]
        assert bad == [], bad
        wrong = [asker.wrong for asker in askers if asker.wrong]
        assert wrong == [], wrong
        stuck = [one for one in outcomes if one.how == "late"]
        assert stuck == [], f"stuck: {stuck}"
        if fault is None:
            failed = [one for one in outcomes if one.how != "ok"]
            assert failed == [], failed
        return done

    # ---- what must hold when it is calm ----

    def fds(self) -> Counter[str]:
        """Of kinds that sessions have: a worker keeps some pipes, and sockets to UDP backends, which are told apart."""
        found: Counter[str] = Counter()
        for fd in os.listdir(f"/proc/{self.process.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{self.process.process.pid}/fd/{fd}")
                found[target.partition(":")[0]] += 1
        return found

    def udp_links(self) -> int:
        """Sockets to the UDP backend. Those that rest are kept for some seconds."""
        port = f":{self.ports['udp']:04X}"
        lines = Path("/proc/net/udp").read_text().splitlines()[1:]
        return sum(line.split()[2].endswith(port) for line in lines)

    def status(self) -> dict[str, Any]:
        with Client(self.admin) as client:
            return client.status()

    def _settled(self) -> bool:
        listeners = self.status()["listeners"]
        return all(
            one["sessions_active"] == 0 and one["sessions_total"] == sum(one["closed"].values()) for one in listeners
        )

    def assert_calm(self) -> None:
        """No session is left, as many ended as began, and every socket is closed."""
        assert wait_until(self._settled, 8), [
            (one["name"], one["sessions_active"], one["sessions_total"], one["closed"])
            for one in self.status()["listeners"]
        ]
        assert wait_until(lambda: self.fds()["socket"] - self.udp_links() <= self.calm["socket"], 5), (
            self.fds(),
            self.udp_links(),
            self.calm,
        )

    def assert_counts(self) -> None:
        """One round without faults: whole, at once, and its bytes are counted."""
        before = self._bytes()
        began = time.monotonic()
        done = self.traffic()
        assert time.monotonic() - began < 15, "nothing may have to wait for a deadline"
        outcomes = [one for one in done if isinstance(one, Outcome)]
        expected = {}
        for name in ("web", "headed", "local"):
            through = [one for one in outcomes if one.listener in ((name, "splicing") if name == "web" else (name,))]
            requests = sum(one.requests for one in through)
            expected[name] = (
                sum(one.up for one in through) + requests * streams.content.REQUEST_BYTES,
                sum(one.down for one in through) + requests * streams.content.ANSWER_BYTES,
            )

        def counted() -> dict[str, tuple[int, int]]:
            now = self._bytes()
            return {name: (now[name][0] - before[name][0], now[name][1] - before[name][1]) for name in expected}

        assert wait_until(lambda: counted() == expected, 5), (counted(), expected)

    def _bytes(self) -> dict[str, tuple[int, int]]:
        with Client(self.admin) as client:
            pools = {name: client.pool(name) for name in ("web", "headed", "local")}
        return {
            name: (sum(b["bytes_up"] for b in pool["backends"]), sum(b["bytes_down"] for b in pool["backends"]))
            for name, pool in pools.items()
        }

    def assert_server_content(self) -> None:
        """The server saw no stream end in order before it was whole, and nobody else's bytes."""
        said = [line for line in self.server_log.read_text().splitlines() if '"ready"' not in line]
        said = [line for line in said if '"short"' not in line or not self._of_unix(line)]
        assert said == [], said

    @staticmethod
    def _of_unix(line: str) -> bool:
        return '"unix": true' in line

    def end(self) -> None:
        """It ends in order, with nothing left behind."""
        self.process.signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.process.log
        assert leaks_in(self.process.log) == {}, self.process.log
        assert "Traceback" not in self.process.log, self.process.log
        errors = re.findall(r"^\S+ error .*", self.process.log, re.MULTILINE)
        assert [line for line in errors if "accepting paused" not in line] == [], self.process.log


@contextlib.contextmanager
def _server(directory: Path, ports: dict[str, int]) -> Iterator[None]:
    arguments = ["1", str(ports["tcp"]), str(ports["tcp_headed"]), str(ports["udp"]), f"{directory}/server.sock"]
    log = directory / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.servers", *arguments], stdout=out, env=without_preload()
        )
    try:
        assert wait_until(lambda: "ready" in log.read_text(), 20)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def standing(directory: Path) -> Iterator[Stand]:
    names = ("web", "splicing", "headed", "asked", "once", "tcp", "tcp_headed", "udp")
    ports: dict[str, int] = {}
    while len(set(ports.values())) < len(names):
        ports = {name: free_port() for name in names}
    pools = {
        "web": f"127.0.0.1:{ports['tcp']}",
        "headed": f"127.0.0.1:{ports['tcp_headed']}",
        "local": f"unix:{directory}/server.sock",
        "asked": f"127.0.0.1:{ports['udp']}",
    }
    text = FILE.format(dir=directory, **ports)
    for name, address in pools.items():
        text += POOL.format(name=name, address=address)
        text += 'connect_timeout = "1s"\n' if name != "asked" else ""
        text += 'send_proxy = "v2"\nsource_address = "127.0.0.1"\n' if name == "headed" else ""
    file = directory / "lb.toml"
    file.write_text(text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_server(directory, ports))
        faults = stack.enter_context(Faults())
        process = stack.enter_context(
            l4lb("serve", "-c", str(file), environment=faults.environment, admin=True, module="tests.support.leaky")
        )
        stand = Stand(process, faults, ports, directory)
        process.wait_for("admin listening")
        stand.calm = stand.fds()
        yield stand
