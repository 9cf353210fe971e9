"""Start and stop backends of a pool by what it has to do.

As a program: with commands of yours that start and stop a backend, or a provider and a rule from a module of yours.
As a library: `Autoscaler` with an object that has `start() -> address` and `stop(address)`.

Only backends that it has started itself are ever stopped: they carry the tag `autoscale`, which says whether they are
starting, serving or leaving. All state is in the pool, so that another run goes on where this one ends. Ctrl-C stops no
backend.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import common
from common import Failed, Stop, say

from l4lb import AdminState, Client, L4lbError

TAG = "autoscale"  # on own backends; its value is one of
STARTING, SERVING, LEAVING = PHASES = ("starting", "serving", "leaving")


class Provider(Protocol):
    """Where backends come from. Any exception means that it did not work; it is asked again later."""

    def start(self) -> str:
        """Start a backend and return its address, ``host:port``. It need not accept yet."""

    def stop(self, address: str) -> None:
        """Stop one that has no session any more. It may be asked again for one that is gone."""


@dataclass(frozen=True)
class Load:
    """What a rule decides by: current sessions, those in the queue, backends that are ready and up; all counters."""

    sessions: int
    waiting: int
    backends: int
    status: Any  # the answer of GET /v1/pools/NAME


Rule = Callable[[Load], int]  # how many backends are wanted


def by_sessions(per_backend: int) -> Rule:
    """As many that none has more than `per_backend` sessions."""
    return lambda load: math.ceil((load.sessions + load.waiting) / per_backend)


@dataclass(frozen=True)
class Limits:
    """`least` and `most` count all ready backends of the pool, not only own ones. A backend that is not up
    after `up_timeout_s` is stopped again; one that leaves may keep its sessions for `drain_timeout_s`. There is one
    less only after fewer were wanted for `calm_s`."""

    least: int = 1
    most: int = 10
    up_timeout_s: float = 120.0
    drain_timeout_s: float = 300.0
    calm_s: float = 60.0


class Autoscaler:
    """Of one pool. Call `step` again and again; it waits for no backend. `failures` counts what did not work since a
    backend was last started or stopped well."""

    def __init__(
        self, client: Client, pool: str, provider: Provider, rule: Rule, limits: Limits, report: Callable[[str], None]
    ) -> None:
        self._pool = client.pools[pool]
        self._provider = provider
        self._rule = rule
        self._limits = limits
        self._report = report
        self._wanted: deque[tuple[float, int]] = deque()
        self._since: dict[tuple[str, str], float] = {}  # when an own backend was first seen in its phase
        self.failures = 0

    def step(self) -> None:
        """Look once, and do what is to be done: take in who is up, stop who has left, and start or drain."""
        own = [one for one in self._pool.status["backends"] if TAG in one["tags"]]
        known = {one["id"] for one in own}
        self._since = {key: since for key, since in self._since.items() if key[0] in known}
        late = False
        for one in own:
            if one["tags"][TAG] == STARTING:
                late |= not self._starting(one)
            elif one["tags"][TAG] == LEAVING:
                self._leaving(one)
        if not late:
            self._scale()

    def _enter(self, one: Any, phase: str, admin_state: AdminState) -> None:
        self._since.pop((one["id"], phase), None)
        self._pool[one["id"]].set(admin_state=admin_state, tags={**one["tags"], TAG: phase})

    def _waited_s(self, one: Any) -> float:
        now = time.monotonic()
        return now - self._since.setdefault((one["id"], one["tags"][TAG]), now)

    def _starting(self, one: Any) -> bool:
        """False when it has failed to."""
        if one["health"] == "up":
            self._enter(one, SERVING, AdminState.READY)
            self.failures = 0
            self._report(f"{one['id']}: up, and serves")
        elif self._waited_s(one) > self._limits.up_timeout_s:
            self._failed(f"{one['id']}: not up after {self._limits.up_timeout_s:g} s")
            self._stop(one)
            return False
        return True

    def _leaving(self, one: Any) -> None:
        over = one["sessions_active"] == 0 or self._waited_s(one) > self._limits.drain_timeout_s
        if over and self._stop(one):
            self.failures = 0

    def _stop(self, one: Any) -> bool:
        """It leaves the pool last, so that one that could not be stopped is found again."""
        try:
            self._provider.stop(one["address"])
        except Exception as error:
            self._failed(f"{one['id']}: cannot be stopped: {error}")
            return False
        self._pool.remove(one["id"], drain=0)
        self._report(f"{one['id']}: stopped")
        return True

    def _failed(self, text: str) -> None:
        self.failures += 1
        self._report(text)

    # ---- how many ----

    def _scale(self) -> None:
        """By one step. Those that are starting count as if they served; those that are down only towards `most`."""
        status = self._pool.status
        phases = {phase: [one for one in status["backends"] if one["tags"].get(TAG) == phase] for phase in PHASES}
        starting = len(phases[STARTING])
        ready = [one for one in status["backends"] if one["admin_state"] == AdminState.READY]
        up = sum(one["health"] != "down" for one in ready)
        wanted = self._decide(Load(status["sessions_active"], status["waiting"], up, status))
        if wanted > up + starting:
            room = self._limits.most - len(ready) - starting
            self._more(min(wanted - up - starting, room), [one for one in phases[LEAVING] if one["health"] == "up"])
        elif self._calm(wanted) < up and not starting:
            self._less([one for one in phases[SERVING] if one in ready], wanted)

    def _less(self, own: Sequence[Any], wanted: int) -> None:
        """One at a time: one that is down, else the one with the fewest sessions."""
        for one in sorted(own, key=lambda one: (one["health"] != "down", one["sessions_active"]))[:1]:
            self._report(f"{one['id']}: drain, {wanted} wanted")
            self._enter(one, LEAVING, AdminState.DRAIN)

    def _decide(self, load: Load) -> int:
        try:
            wanted = self._rule(load)
        except Exception as error:
            self._failed(f"the rule has failed, and as many as now stay: {type(error).__name__}: {error}")
            wanted = load.backends
        return max(self._limits.least, min(self._limits.most, wanted))

    def _calm(self, wanted: int) -> int:
        """The most that was wanted of late."""
        now = time.monotonic()
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self._limits.calm_s:
            self._wanted.popleft()
        return max(count for _, count in self._wanted)

    def _more(self, count: int, leaving: Sequence[Any]) -> None:
        """Those that are about to leave first."""
        self._wanted.clear()
        for one in leaving[: max(0, count)]:
            self._report(f"{one['id']}: ready again")
            self._enter(one, SERVING, AdminState.READY)
        for _ in range(count - len(leaving)):
            try:
                address = self._provider.start()
            except Exception as error:
                self._failed(f"no backend could be started: {error}")
                return
            self._add(address)

    def _add(self, address: str) -> None:
        if address in {one["address"] for one in self._pool.status["backends"]}:
            self._failed(f'the provider said "{address}", which is in the pool already')
            return
        try:
            added = self._pool.add(address, tags={TAG: STARTING}, admin_state=AdminState.MAINT)
        except L4lbError as error:
            self._failed(f'"{address}" cannot be added, and is to stop: {error}')
            with contextlib.suppress(Exception):
                self._provider.stop(address)
            return
        self._report(f"{added.id}: started")


# ---- the program ----


@dataclass(frozen=True)
class Commands:
    """A provider by commands: the first prints the address, the second gets it as {address}, {host} and {port}."""

    starting: Sequence[str]
    stopping: Sequence[str]
    pool: str
    timeout_s: float

    def start(self) -> str:
        printed = common.output_of(common.filled(self.starting, self.pool, ""), self.timeout_s).split()
        if len(printed) != 1:
            raise Failed(f"{self.starting[0]}: printed {' '.join(printed)[:100]!r}: expected an address, host:port")
        return printed[0]

    def stop(self, address: str) -> None:
        common.output_of(common.filled(self.stopping, self.pool, address), self.timeout_s)


def loaded(option: str, name: str) -> Any:
    """What `name`, as module:name, is in Python."""
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(f'"{name}": expected module:name: {error}', param_hint=option) from None


def provider_of(provider: str | None, start: str | None, stop: str | None, pool: str, timeout_s: float) -> Provider:
    if provider is not None and start is None and stop is None:
        made: Provider = loaded("--provider", provider)()
        return made
    if provider is None and start is not None and stop is not None:
        return Commands(common.words("--start", start), common.words("--stop", stop), pool, timeout_s)
    raise click.UsageError("expected --start and --stop, or --provider")


def go_on(scaler: Autoscaler, every_s: float, failures_max: int, stop: Stop) -> None:
    """Until Ctrl-C, or too many failures: the instance may be away for a while, too."""
    unanswered = 0
    while max(scaler.failures, unanswered) < failures_max:
        try:
            scaler.step()
            unanswered = 0
        except L4lbError as error:
            unanswered += 1
            say(str(error))
        stop.sleep(every_s)
    raise Failed(f"given up after {failures_max} failures in a row; the pool stays as it is")


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pool")
@click.option("--start", metavar="COMMAND", help="Starts a backend and prints its address.")
@click.option("--stop", metavar="COMMAND", help="Stops the one at {address} ({host}, {port}).")
@click.option("--provider", metavar="MODULE:CLASS", help="Yours instead: its objects have start and stop.")
@click.option("--sessions", type=click.IntRange(1), default=100, show_default=True, help="Wanted for each backend.")
@click.option("--rule", metavar="MODULE:FUNCTION", help="Yours instead: from a Load to the number of backends.")
@click.option("--least", type=click.IntRange(1), default=1, show_default=True, help="Never fewer backends.")
@click.option("--most", type=click.IntRange(1), default=10, show_default=True, help="Never more.")
@common.duration("--every", "5s", "How often to look.")
@common.duration("--up-timeout", "2m", "How soon a new backend must be up.")
@common.duration("--drain-timeout", "5m", "How long sessions of one that leaves may go on.")
@common.duration("--calm", "60s", "How long fewer must be wanted before one leaves.")
@click.option("--give-up-after", type=click.IntRange(1), default=5, show_default=True, help="Failures in a row.")
@common.admin_options
def main(
    pool: str,
    start: str | None,
    stop: str | None,
    provider: str | None,
    sessions: int,
    rule: str | None,
    least: int,
    most: int,
    every: float,
    up_timeout: float,
    drain_timeout: float,
    calm: float,
    give_up_after: int,
    admin: str,
    token_file: str | None,
) -> None:
    if least > most:
        raise click.UsageError(f"--least {least}: expected at most --most, which is {most}")
    made = provider_of(provider, start, stop, pool, up_timeout)
    chosen: Rule = loaded("--rule", rule) if rule else by_sessions(sessions)
    limits, asked = Limits(least, most, up_timeout, drain_timeout, calm), Stop()
    with common.connected(admin, token_file) as client:
        common.require_checks(client, pool)
        scaler = Autoscaler(client, pool, made, chosen, limits, say)
        go_on(scaler, every, give_up_after, asked)


if __name__ == "__main__":
    common.run(main)
