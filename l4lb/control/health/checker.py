"""When to check a target. One task per target, on the control loop; what its results mean is in `rise_fall.py`.

The first check decides the health of an
unknown target and comes early; the second comes at a random point of the interval, which spreads the checks of many
targets. A time-out that fired late, because this loop was busy, says nothing about the target: it is discarded and the
target checked again at once. A check that failed for a local shortage (file descriptors, memory, local ports, a local
firewall) is discarded too, and repeated after the usual wait: otherwise it would take every backend down at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from l4lb.control.checks.checks import Check, CheckFailed, NotChecked, Target, begin_step, current_step
from l4lb.control.health.rise_fall import Streak
from l4lb.control.state.state import CheckResult
from l4lb.errors import RAISED_BY_OTHERS
from l4lb.model.states import Health
from l4lb.model.stats import Durations
from l4lb.net.loops import is_ending

JITTER = 0.05  # of the interval, either way
LATE_S = 0.05  # a time-out that fires so much later than asked for shows that the loop was busy


def _jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)


Listener = Callable[["Checker", CheckResult, bool], None]


@dataclass(slots=True)
class Checker:
    """Checks `target` until cancelled and calls each of `listeners` with (checker, result, whether health changed)."""

    target: Target
    check: Check
    streak: Streak
    listeners: list[Listener] = field(default_factory=list)
    check_time: Durations = field(default_factory=Durations)
    lag_s: float = 0.0
    checks: int = 0
    skipped: int = 0  # because of local shortages
    wanting: Callable[[NotChecked], None] = lambda _: None  # called for each of those

    async def run(self, first_delay_s: float) -> None:
        """Until cancelled. `first_delay_s` is the wait before the first check."""
        await asyncio.sleep(first_delay_s)
        while True:
            result = await self._once()
            if result is None:
                continue
            self.checks += 1
            self.check_time.add(result.latency_s)
            changed = self.streak.add(result.ok)
            for listener in self.listeners:
                listener(self, result, changed)
            await self._sleep(_jitter() if self.checks > 1 else random.random())

    def interval_s(self) -> float:
        """How long to wait for the next check."""
        settings = self.target.settings
        if self.streak.changing:
            return settings.fast_interval
        return settings.down_interval if self.streak.health is Health.DOWN else settings.interval

    async def _sleep(self, intervals: float) -> None:
        wait_s = self.interval_s() * intervals
        due = time.monotonic() + wait_s
        await asyncio.sleep(wait_s)
        self.lag_s = max(0.0, time.monotonic() - due)

    async def _once(self) -> CheckResult | None:
        """One check; None when it says nothing about the target: this process was late, or short of something."""
        timeout_s = self.target.settings.timeout
        began = time.monotonic()
        begin_step("connect")
        try:
            async with asyncio.timeout(timeout_s):
                await self.check(self.target)
        except NotChecked as want:
            self.skipped += 1
            self.wanting(want)
            await self._sleep(_jitter())
            return None
        except CheckFailed as failed:
            return CheckResult(False, failed.step, failed.reason, time.monotonic() - began)
        except TimeoutError:
            elapsed = time.monotonic() - began
            if elapsed > timeout_s + LATE_S:
                self.lag_s = elapsed - timeout_s
                return None
            return CheckResult(False, current_step(), f"no answer within {timeout_s:g} s", elapsed)
        except asyncio.CancelledError:  # a broken check must neither stop the checker nor pass
            if is_ending():
                raise
            return CheckResult(False, current_step(), "cancelled itself", time.monotonic() - began)
        except RAISED_BY_OTHERS as error:
            return CheckResult(False, "check", f"{type(error).__name__}: {error}", time.monotonic() - began)
        return CheckResult(True, "passed", "", time.monotonic() - began)
