"""What a load balancer in a program leaves behind: nothing, however it ends."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from l4lb import Backend, ConfigError, EngineError, LoadBalancer
from l4lb.config import AdminConfig
from tests.conftest import open_fds
from tests.support.balancing import address_of, make_config
from tests.support.peers import connect, echo, serving

LONG = os.environ.get("L4LB_SOAK") == "1"
CYCLES = 1000 if LONG else 50
GROWTH_BYTES = 48 * 1024  # of Python's memory over all: tables that grow; one object left of each of 1,000 is more
BEGIN = """
import os, sys, threading
from l4lb import Config, LoadBalancer
config = Config.loads('''
[admin]
bind = "unix:{dir}/admin.sock"
[global]
access_log = "{dir}/access.log"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["127.0.0.1:1"]
health = { type = "none" }
''')
lb = LoadBalancer(config)
"""


def run(program: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "always::ResourceWarning",
        *options,
        "-c",
        BEGIN.replace("{dir}", str(directory)) + program,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def one_life(server: str, directory: Path) -> None:
    config = make_config([server]).model_copy(update={"admin": AdminConfig(bind=f"unix:{directory}/admin.sock")})
    with LoadBalancer(config) as balancer, balancer.events():
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        balancer.pools["web"].add("127.0.0.1:1")
        assert balancer.stats().sessions_total == 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.alone
@pytest.mark.parametrize("traced", [True, False], ids=["of Python", "resident"])
def test_lives_leave_no_descriptor_thread_or_memory(traced: bool, tmp_path: Path) -> None:
    """L4LB_SOAK=1: a thousand. What traces the memory of Python takes some itself: the process is looked at apart."""
    with serving(echo) as server:
        for _ in range(10):  # what is made once: imports, caches
            one_life(server.address, tmp_path)
        if traced:
            tracemalloc.start()
        logging.disable()  # pytest keeps what is logged
        try:
            for _ in range(5):
                one_life(server.address, tmp_path)
            server._threads = [thread for thread in server._threads if thread.is_alive()]
            fds, threads, memory, resident = open_fds(), threading.active_count(), _traced(), resident_bytes()
            for _ in range(CYCLES):
                one_life(server.address, tmp_path)
                server._threads = [thread for thread in server._threads if thread.is_alive()]
            assert not open_fds() - fds
            assert threading.active_count() <= threads + 1  # a thread of the server may be about to end
            assert _traced() - memory < GROWTH_BYTES
            assert traced or resident_bytes() - resident < (16 << 20)
        finally:
            logging.disable(logging.NOTSET)
            tracemalloc.stop()


def _traced() -> int:
    """Without the interpreter's cache of attributes, which keeps the names that were looked up of late."""
    gc.collect()
    (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
    return tracemalloc.get_traced_memory()[0]


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with serving(echo) as server:
        taken = make_config(["127.0.0.1:1"], listener={"bind": server.address}).model_copy(
            update={"admin": AdminConfig(bind=f"unix:{tmp_path}/admin.sock")}
        )
        for _ in range(3):
            fds, threads = open_fds(), set(threading.enumerate())
            balancer = LoadBalancer(taken)
            with pytest.raises(ConfigError, match="Address already in use"):
                balancer.start()
            assert not open_fds() - fds
            assert set(threading.enumerate()) <= threads
            balancer.close()
        assert not list(tmp_path.iterdir())


def test_an_exception_within_with_closes(tmp_path: Path) -> None:
    balancer = LoadBalancer(make_config(["127.0.0.1:1"]))
    addresses = []

    def fail() -> None:
        with balancer:
            addresses.append(address_of(balancer))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ConnectionRefusedError):
        connect(addresses[0])
    with pytest.raises(EngineError, match="not started"):
        balancer.stats()


@pytest.mark.parametrize(
    "end",
    ["", "sys.exit(0)", "del lb", "events = lb.events(); next(lb.events(last=1))", "lb.close(); lb.start()"],
    ids=["falls off the end", "sys.exit", "let go", "with iterators", "started again"],
)
def test_the_interpreter_ends_without_close(end: str, tmp_path: Path) -> None:
    done = run(f"lb.start(); {end}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "admin.sock").exists(), "closed in order"


def test_an_exception_that_nobody_catches(tmp_path: Path) -> None:
    done = run("lb.start(); raise SystemError('of the program')", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "SystemError: of the program" in done.stderr
    assert not (tmp_path / "admin.sock").exists()


CHILD = """
lb.start()
pool = lb.pools["web"]
pid = os.fork()
if not pid:
    asked = [lb.stats, lb.status, lb.start, lb.events]
    asked += [lambda: lb.pools, lambda: lb.config, lambda: pool.add("127.0.0.1:2")]
    for ask in asked:
        try:
            ask()
        except Exception as error:
            assert type(error).__name__ == "EngineError", repr(error)
            assert f"runs in process {os.getppid()}, from which this one was forked" in str(error), error
        else:
            raise AssertionError(ask)
    assert repr(lb).startswith("<LoadBalancer of another process")
    lb.close()
    END
assert os.waitpid(pid, 0)[1] == 0
assert lb.status()["state"] == "running"
assert lb.pools["web"].add("127.0.0.1:2").id == "127.0.0.1:2"
lb.close()
print("closed")
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
def test_a_forked_child_leaves_the_parents_alone(end: str, tmp_path: Path) -> None:
    done = run(CHILD.replace("END", end), tmp_path, "-W", "ignore::DeprecationWarning")
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
    assert done.stderr == ""


def _in_child(queue: multiprocessing.queues.Queue[int]) -> None:
    with serving(echo) as server, LoadBalancer(make_config([server.address])) as own:
        with connect(address_of(own)) as sock:
            sock.sendall(b"x")
            queue.put(len(sock.recv(1)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_may_have_one_of_its_own() -> None:
    context = multiprocessing.get_context("fork")
    with LoadBalancer(make_config(["127.0.0.1:1"])) as parent:
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == 1
        child.join(60)
        assert child.exitcode == 0
        assert parent.status()["state"] == "running"
        child.close()
        queue.close()
        queue.join_thread()


def test_reprs_fit_a_line() -> None:
    balancer = LoadBalancer(make_config([Backend("127.0.0.1:1", weight=3)]))
    assert repr(balancer) == "<LoadBalancer not running: listeners web; pools web>"
    with balancer:
        pool = balancer.pools["web"]
        assert repr(balancer) == "<LoadBalancer running: listeners web; pools web>"
        assert repr(pool) == "<pool web: round_robin, 1 of 1 backends usable>"
        assert repr(pool["127.0.0.1:1"]) == "<backend 127.0.0.1:1 of pool web: up, ready, weight 3>"
        assert repr(balancer.listeners["web"]) == "<listener web: tcp 127.0.0.1:0, pool web>"
        assert repr(balancer.stats()) == "<Stats 0 of 0 sessions active; listeners web; pools web>"
        assert repr(pool.stats) == "<PoolStats 0 of 0 sessions active, 0 waiting; 1 backends>"
