"""Give one backend of a pool, the canary, more and more sessions, and none as soon as it fails more than the others.

For each of the weights: set it, and compare what of the canary's sessions fails with what of the others' does, for a
window. Connects that fail and resets before the first byte count. At the last weight the canary stays. Without a
verdict (too few sessions, Ctrl-C) it goes back too: to the weight 0, which gives it no new session.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click
import common
from common import Failed, Interrupted, Stop, say

from l4lb import L4lbError
from l4lb.remote import RemoteBackend, RemotePool

LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Counted:
    """Sessions that were tried and those that failed, of the canary or of the others."""

    tried: int = 0
    failures: int = 0

    def since(self, before: Counted) -> Counted:
        return Counted(self.tried - before.tried, self.failures - before.failures)

    @property
    def rate(self) -> float:
        return self.failures / self.tried if self.tried else 0.0

    def __str__(self) -> str:
        return f"{self.failures} of {self.tried} sessions failed ({self.rate:.1%})"


@dataclass(frozen=True)
class Rules:
    """`margin` is the difference of two error rates; below `min_sessions` of the canary's there is no verdict."""

    margin: float
    min_sessions: int
    window_s: float


class Canary:
    """One backend, compared with the others of its pool."""

    def __init__(self, pool: RemotePool, backend: RemoteBackend, rules: Rules, stop: Stop) -> None:
        self._pool = pool
        self._backend = backend
        self._rules = rules
        self._stop = stop

    def _counted(self) -> tuple[Counted, Counted]:
        """The canary's, and the others'."""
        sums = {True: Counted(), False: Counted()}
        for one in self._pool.status["backends"]:
            is_canary, before = one["id"] == self._backend.id, sums[one["id"] == self._backend.id]
            failures = one["connect_failures"] + one["early_resets"]
            tried = one["sessions_total"] + one["connect_failures"]
            sums[is_canary] = Counted(before.tried + tried, before.failures + failures)
        return sums[True], sums[False]

    def step(self, weight: int) -> None:
        """Set that weight and watch for a window. Failed as soon as there is a verdict against the canary."""
        before = self._counted()
        ejections = self._backend.status["ejections"]
        self._backend.set_weight(weight)
        until = time.monotonic() + self._rules.window_s
        while time.monotonic() < until:
            self._stop.sleep(LOOK_EVERY_S)
            self._check_usable(ejections)
            canary, others = (now.since(then) for now, then in zip(self._counted(), before, strict=True))
            if canary.tried >= self._rules.min_sessions and canary.rate > others.rate + self._rules.margin:
                raise Failed(f"at weight {weight}, {canary}; of the others', {others}")
        if canary.tried < self._rules.min_sessions:
            wanted = f"{self._rules.min_sessions} are needed to judge: make --window longer"
            raise Failed(
                f"at weight {weight}, it got {canary.tried} sessions in {self._rules.window_s:g} s, and {wanted}"
            )
        say(f"weight {weight}: {canary}; of the others', {others}")

    def _check_usable(self, ejections: int) -> None:
        """When traffic or checks find that it does not work, it gets no more sessions that could be counted."""
        status = self._backend.status
        if status["ejections"] > ejections or not status["usable"]:
            raise Failed(f"it gets no sessions: {status['passed_over'] or 'it was ejected'}")

    def back(self) -> None:
        self._backend.set_weight(0)


def weights_of(text: str) -> list[int]:
    found = text.split(",")
    if not all(one.strip().isdecimal() and int(one) > 0 for one in found):
        raise click.BadParameter(f'"{text}": expected weights from 1 on, such as 1,10,50', param_hint="--weights")
    weights = [int(one) for one in found]
    if weights != sorted(set(weights)):
        raise click.BadParameter(f'"{text}": expected each to be more than the one before', param_hint="--weights")
    return weights


def check_there(pool: RemotePool, backend: RemoteBackend) -> None:
    status: Any = backend.status
    if status["admin_state"] != "ready" or status["health"] == "down":
        raise Failed(
            f"{backend.id}: admin state {status['admin_state']}, health {status['health']}: expected ready, up"
        )
    if not common.usable(pool) - {backend.id}:
        raise Failed(f'{backend.id}: pool "{pool.name}" has no other usable backend to compare it with')


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pool")
@click.argument("backend")
@click.option(
    "--weights", default="1,5,20,50,100", show_default=True, metavar="W,W,...",
    help="One after the other; those below the weight that it has now are left out.",
)  # fmt: skip
@common.duration("--window", "60s", "How long to watch at each weight.")
@click.option(
    "--margin", type=click.FloatRange(0, 1), default=0.01, show_default=True, metavar="SHARE",
    help="By how much its error rate may be above that of the others.",
)  # fmt: skip
@click.option(
    "--min-sessions", type=click.IntRange(1), default=50, show_default=True,
    help="Sessions of the canary that a verdict needs, at each weight.",
)  # fmt: skip
@common.admin_options
def main(
    pool: str,
    backend: str,
    weights: str,
    window: float,
    margin: float,
    min_sessions: int,
    admin: str,
    token_file: str | None,
) -> None:
    steps, stop = weights_of(weights), Stop()
    with common.connected(admin, token_file) as client:
        there = client.pools[pool]
        found = there.find(backend)
        check_there(there, found)
        canary, weight = Canary(there, found, Rules(margin, min_sessions, window), stop), found.weight
        steps = [one for one in steps if one >= weight] or [weight]
        try:
            for weight in steps:
                canary.step(weight)
        except (Failed, L4lbError) as error:
            canary.back()
            raise Failed(f"{found.id} is back at weight 0: {error}") from None
        except Interrupted:
            canary.back()
            raise Interrupted(f"{found.id} is back at weight 0") from None
    say(f"{found.id} stays, at weight {steps[-1]}")


if __name__ == "__main__":
    common.run(main)
