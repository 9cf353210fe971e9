"""Restart the backends of a pool one after the other, without a client noticing.

Each is drained, restarted by a command, checked, and taken back. The first that fails ends it: that one stays drained,
and those that were not begun are left alone.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import click
import common
from common import Failed, Interrupted, Stop, say

from l4lb import AdminState, Client, L4lbError
from l4lb.remote import RemoteBackend


@dataclass(frozen=True)
class Plan:
    """Durations are in seconds. `end_sessions`: reset what is left after a drain, instead of stopping there."""

    command: Sequence[str]
    at_once: int
    min_usable: int
    drain_timeout_s: float
    command_timeout_s: float
    up_timeout_s: float
    end_sessions: bool


class NotBegun(Exception):
    """The backend is as it was: somebody else failed, or Ctrl-C came before its restart."""


class Restart:
    """Of one pool. `one` runs on several threads; `begin` lets one after the other take a backend out."""

    def __init__(self, client: Client, pool: str, plan: Plan, stop: Stop) -> None:
        self._client = client
        self._pool = client.pools[pool]
        self._plan = plan
        self._stop = stop
        self._taking_out = threading.Lock()
        self._out: set[str] = set()
        self.failed: list[str] = []
        self.done: list[str] = []

    def one(self, backend: str) -> None:
        try:
            self._one(self._pool[backend])
        except NotBegun as reason:
            say(f"{backend}: not restarted: {reason}")
        except (Failed, L4lbError) as error:
            self.failed.append(backend)
            say(f"{backend}: {error}", err=True)
        else:
            self.done.append(backend)

    def _one(self, backend: RemoteBackend) -> None:
        before = backend.admin_state
        with self._taking_out:
            self._check_going_on()
            self._check_enough(backend.id)
            say(f"{backend.id}: drain")
            backend.drain()
            self._out.add(backend.id)
        try:
            self._around(backend, before)
        finally:
            self._out.discard(backend.id)

    def _around(self, backend: RemoteBackend, before: AdminState) -> None:
        try:
            self._wait_drained(backend)
        except (Failed, NotBegun):
            backend.set(admin_state=before)
            raise
        since = common.last_checked(backend)
        say(f"{backend.id}: restart")
        self._restart(backend)
        self._wait_up(backend, max(since, common.last_checked(backend)))
        backend.ready()
        say(f"{backend.id}: up, and back")

    def _check_going_on(self) -> None:
        if self._stop.asked:
            raise NotBegun("interrupted")
        if self.failed:
            raise NotBegun(f"{self.failed[0]} has failed")

    def _check_enough(self, backend: str) -> None:
        """Wait for others that are on their way back."""
        deadline = time.monotonic() + self._plan.up_timeout_s
        while len(left := common.usable(self._pool) - {backend}) < self._plan.min_usable:
            self._check_going_on()
            if time.monotonic() > deadline and not self._out:
                wanted = f"--min-usable {self._plan.min_usable}"
                raise Failed(f"not drained: {len(left)} usable backends would be left, fewer than {wanted}")
            time.sleep(common.TICK_S)

    def _wait_drained(self, backend: RemoteBackend) -> None:
        deadline = time.monotonic() + self._plan.drain_timeout_s
        while sessions := backend.status["sessions_active"]:
            self._check_going_on()
            if time.monotonic() > deadline:
                if not self._plan.end_sessions:
                    said = f"sessions left after {self._plan.drain_timeout_s:g} s: {sessions}"
                    raise Failed(f"{said}; not restarted, and as it was (--end-sessions resets them)")
                self._client.kill_sessions(pool=self._pool.name, backend=backend.id)
            time.sleep(common.TICK_S)
        self._check_going_on()

    def _restart(self, backend: RemoteBackend) -> None:
        command = common.filled(self._plan.command, self._pool.name, backend.address, backend.id)
        try:
            common.output_of(command, self._plan.command_timeout_s, lambda: self._stop.asked > 1)
        except Failed as error:
            raise Failed(f"{error}; it stays drained") from None

    def _wait_up(self, backend: RemoteBackend, since: float) -> None:
        """Ctrl-C does not end this, only a second one: a backend that was restarted is to come back."""
        deadline = time.monotonic() + self._plan.up_timeout_s
        while not common.is_up_since(self._pool, backend.id, since):
            if self._stop.asked > 1:
                raise Failed("interrupted before it was up; it stays drained")
            if time.monotonic() > deadline:
                check = backend.status["last_check"]
                why = f" ({check['step']}: {check['reason']})" if check and not check["ok"] else ""
                raise Failed(f"not up {self._plan.up_timeout_s:g} s after its restart{why}; it stays drained")
            time.sleep(common.TICK_S)


def chosen(client: Client, pool: str, only: Sequence[str]) -> list[str]:
    """Those to restart: `only`, in their order, or all that are ready."""
    if only:
        return [client.pools[pool].find(backend).id for backend in only]
    found = []
    for one in client.pools[pool].status["backends"]:
        if one["admin_state"] == AdminState.READY:
            found.append(one["id"])
        else:
            say(f"{one['id']}: left alone: its admin state is {one['admin_state']} (--only {one['id']} restarts it)")
    return found


def to_go_on(pool: str, left: Sequence[str]) -> str:
    return f"to go on: rolling_restart.py {shlex.join([word for one in left for word in ('--only', one)])} {pool} ..."


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pool")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help="How many at the same time.")
@click.option(
    "--min-usable", type=click.IntRange(0), default=1, show_default=True, help="Leave so many usable at any time."
)
@click.option("--only", multiple=True, metavar="BACKEND", help="This one, whatever its admin state; repeatable.")
@click.option("--end-sessions", is_flag=True, help="Reset sessions that are left after --drain-timeout.")
@common.duration("--drain-timeout", "30s", "How long its sessions may go on.")
@common.duration("--command-timeout", "2m", "How long the command may take.")
@common.duration("--up-timeout", "60s", "How soon after the command its checks must pass.")
@common.admin_options
def main(
    pool: str,
    command: tuple[str, ...],
    at_once: int,
    min_usable: int,
    only: tuple[str, ...],
    end_sessions: bool,
    drain_timeout: float,
    command_timeout: float,
    up_timeout: float,
    admin: str,
    token_file: str | None,
) -> None:
    stop = Stop("interrupted: what has begun is finished; once more to stop at once")
    plan = Plan(command, at_once, min_usable, drain_timeout, command_timeout, up_timeout, end_sessions)
    with common.connected(admin, token_file) as client:
        restart = Restart(client, pool, plan, stop)
        common.require_checks(client, pool)
        backends = chosen(client, pool, only)
        with ThreadPoolExecutor(at_once) as threads:
            restarts = [threads.submit(restart.one, backend) for backend in backends]
            while wait(restarts, timeout=common.TICK_S).not_done:  # a thread that only waits may miss a signal
                pass
    for done in restarts:
        done.result()  # raises what is an error of this script
    left = [backend for backend in backends if backend not in restart.done]
    if left:
        failed = f"{', '.join(restart.failed)} failed, " if restart.failed else ""
        raise (Interrupted if stop.asked else Failed)(f"{failed}{len(restart.done)} restarted; {to_go_on(pool, left)}")
    say(f"{len(restart.done)} backends restarted")


if __name__ == "__main__":
    common.run(main)
