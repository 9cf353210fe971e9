"""What the soak runs on: the configuration of `l4lb serve`, which reloads change, the servers, the clients' plan."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import free_port, without_preload
from tests.support.waiting import wait_until

STABLE, SHAKY = (1, 2), (3, 4)
POLICIES = ("round_robin", "least_sessions", "p2c", "maglev", "random")
GLOBAL = """
[global]
workers = 2
max_sessions = 3000
drain_timeout = "75s"
[admin]
bind = "unix:{dir}/admin.sock"
"""
LISTENER = """
[listeners.{name}]
bind = "{bind}"
pool = "{pool}"
{more}
"""
POOL = """
[pools.{name}]
policy = "{policy}"
backends = [{backends}]
{more}
[pools.{name}.health]
type = "{check}"
"""
HEALTH = """interval = "500ms"
fast_interval = "300ms"
down_interval = "500ms"
"""
STREAM = ("one", "one-closed-by-server", "keep", "up", "down", "both", "half", "urgent")


def ports(count: int) -> list[int]:
    """Free ones, below the kernel's own range."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found


class Server:
    """One backend process. Its lines are kept in `said`."""

    def __init__(self, number: int, directory: Path, say: Callable[[str], None]) -> None:
        self.number = number
        self.tcp, self.headed, self.udp = ports(3)
        self.path = f"{directory}/server-{number}.sock"
        self._say = say
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()

    def start(self) -> None:
        arguments = [str(one) for one in (self.number, self.tcp, self.headed, self.udp, self.path)]
        self._ready.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.servers", *arguments],
            stdout=subprocess.PIPE, text=True, env=without_preload(),
        )  # fmt: skip
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if '"ready"' in line:
                    self._ready.set()
                else:
                    self._say(line)

    def wait(self) -> None:
        assert self._ready.wait(20), f"server {self.number} did not start"

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class World:
    directory: Path
    servers: dict[int, Server]
    addresses: dict[str, str] = field(default_factory=dict)
    number: int = 0  # of the configuration
    moving: tuple[str, str] = ("", "")
    extra: str = ""

    def __post_init__(self) -> None:
        names = ["web", "splicing", "copying", "headed", "closing", "queueing", "victims", "shaky"]
        names += ["asked", "once", "shaky-asked", "shaky-once", "flooded", "quic"]
        free = ports(len(names) + 3)
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free, strict=False)}
        self.addresses["local"] = f"unix:{self.directory}/local.sock"
        self.moving = (f"127.0.0.1:{free[-1]}", f"127.0.0.1:{free[-2]}")
        self.extra = f"127.0.0.1:{free[-3]}"

    @property
    def admin(self) -> str:
        return f"unix:{self.directory}/admin.sock"

    @property
    def file(self) -> Path:
        return self.directory / "lb.toml"

    def _backends(self, numbers: tuple[int, ...], port: str, draw: random.Random | None = None, more: str = "") -> str:
        listed = []
        for number in numbers:
            server = self.servers[number]
            address = f"unix:{server.path}" if port == "unix" else f"127.0.0.1:{getattr(server, port)}"
            weight = draw.randint(1, 5) if draw else 1
            listed.append(f'{{ address = "{address}", weight = {weight}{more} }}')
        return ", ".join(listed)

    def _listeners(self) -> str:
        """The timeouts of `closing` are short: its clients read slowly, but read."""
        idle = f'idle_timeout = "{60 + self.number % 7}s"'
        udp = 'protocol = "udp"\nidle_timeout = "{}s"'
        listened = {
            "web": ("web", idle),
            "splicing": ("web", f'{idle}\nsplice = "always"'),
            "copying": ("web", f'{idle}\nsplice = "off"'),
            "headed": ("headed", f'{idle}\naccept_proxy = "any"\nproxy_trusted = ["127.0.0.0/8"]'),
            "closing": ("web", 'idle_timeout = "2s"\nhalf_close_timeout = "2s"'),
            "queueing": ("queueing", idle),
            "victims": ("web", idle),
            "shaky": ("shaky", idle),
            "local": ("local", idle),
            "asked": ("asked", udp.format(5)),
            "once": ("asked", udp.format(5) + "\nudp_responses = 1"),
            "shaky-asked": ("shaky-asked", udp.format(3)),
            "shaky-once": ("shaky-asked", udp.format(3) + "\nudp_responses = 1"),
            "flooded": ("asked", udp.format(5)),
            "quic": ("quic", udp.format(5)),
        }
        binds = {**self.addresses, "moving": self.moving[self.number % 2], "extra": self.extra}
        listened["moving"] = ("web", idle)
        if self.number % 3 == 1:
            listened["extra"] = ("extra", idle)
        return "".join(
            LISTENER.format(name=name, bind=binds[name], pool=pool, more=more)
            for name, (pool, more) in listened.items()
        )

    def _pools(self) -> str:
        draw = random.Random(self.number)
        full = ", max_sessions = 3"
        off = "passive = { failures = 0 }"
        queue = f'queue_size = 1000\nqueue_timeout = "40s"\n{off}'
        pools = {
            "web": (self._backends(STABLE, "tcp", draw), "tcp", off),
            "headed": (self._backends(STABLE, "headed", draw), "none", f'send_proxy = "v2"\n{off}'),
            "queueing": (self._backends(STABLE, "tcp", None, full), "none", queue),
            "local": (self._backends(STABLE, "unix", draw), "none", off),
            "shaky": (self._backends(SHAKY, "tcp", draw), "tcp", 'connect_timeout = "1s"'),
            "asked": (self._backends(STABLE, "udp", draw), "none", off),
            "shaky-asked": (self._backends(SHAKY, "udp", draw), "none", ""),
            "quic": (self._backends(STABLE, "udp", draw), "none", f'hash_key = "quic_cid"\n{off}'),
        }  # fmt: skip
        if self.number % 3 == 1:
            pools["extra"] = (self._backends(STABLE[:1], "tcp"), "tcp", "")
        drawn = POLICIES[self.number % len(POLICIES)]
        policy = {"quic": "maglev"}
        return "".join(
            POOL.format(name=name, policy=policy.get(name, drawn), backends=backends, check=check, more=more)
            + (HEALTH if check != "none" else "")
            for name, (backends, check, more) in pools.items()
        )

    def write(self) -> None:
        temporary = self.file.with_suffix(".new")
        temporary.write_text(GLOBAL.format(dir=self.directory) + self._listeners() + self._pools())
        temporary.rename(self.file)

    def plan(self) -> dict[str, list[list[object]]]:
        a = self.addresses
        streams: list[list[object]] = [
            [kind, name, a[name], False, 1, 0.4] for name in ("web", "splicing", "copying") for kind in STREAM
        ]
        streams += [["one", "web", a["web"], False, 3, 0.05], ["slow", "closing", a["closing"], False, 3, 0.3]]
        streams += [[kind, "headed", a["headed"], True, 1, 0.2] for kind in ("one", "keep", "half", "both")]
        streams += [[kind, "local", a["local"], False, 1, 0.2] for kind in ("one", "keep", "half", "both", "down")]
        streams += [
            ["keep", "queueing", a["queueing"], False, 12, 0.1],
            ["keep", "victims", a["victims"], False, 4, 0.1],
        ]
        streams += [[kind, "shaky", a["shaky"], False, 2, 0.2] for kind in STREAM]
        streams += [["one", "moving", where, False, 2, 0.2] for where in self.moving]
        streams += [["keep", "moving", where, False, 1, 0.2] for where in self.moving]
        streams += [["one", "extra", self.extra, False, 1, 0.2]]
        questions: list[list[object]] = [
            ["once", a["once"], 6, 50, 0.05],
            ["asked", a["asked"], 4, 100, 0.05],
            ["asked", a["asked"], 4, 1, 0.1],
            ["shaky-once", a["shaky-once"], 8, 20, 0.03],
            ["shaky-asked", a["shaky-asked"], 4, 30, 0.05],
            ["shaky-asked", a["shaky-asked"], 4, 1, 0.05],
        ]
        return {"streams": streams, "questions": questions, "movers": [["quic", a["quic"], 8, 40, 0.05]]}

    def start(self) -> None:
        for server in self.servers.values():
            server.start()
        for server in self.servers.values():
            server.wait()
        self.write()

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()


def settled(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> list[str]:
    """Nothing, or that `what` did not come."""
    return [] if wait_until(condition, timeout_s) else [f"{what}: not within {timeout_s:.0f} s"]
