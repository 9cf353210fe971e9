"""Sessions that wait for a hook: from the data plane's rings to `Ask`, and from `Answer` to the rings, with names for
numbers.

Names are written on the control thread and read on others, by single operations.
"""

from __future__ import annotations

import threading

from l4lb._native import hooks
from l4lb.engine.pools import Pools
from l4lb.engine.records import Records, address_text
from l4lb.errors import EngineError
from l4lb.model.hooks import Answer, Ask, HookCounts, HookResult

_NUMBERS = {result: number for number, result in enumerate(HookResult)}


class NativeHooks:
    """`native` are the rings; `records` and `pools` know the names."""

    def __init__(self, native: hooks.Hooks, records: Records, pools: Pools) -> None:
        self._native = native
        self._records = records
        self._pools = pools
        self._taking = threading.Lock()
        self._answering = threading.Lock()
        self._untaken = 0

    def open(self) -> int:
        try:
            self._native.open()
        except OSError as error:
            raise EngineError(f"hooks: {error.strerror}") from error
        except MemoryError as error:
            raise EngineError("hooks: out of memory") from error
        return self._native.fd

    def take(self, limit: int) -> list[Ask]:
        with self._taking:
            asked = self._native.take(limit)
        return [self._ask(one) for one in asked]

    def _ask(self, asked: hooks.Ask) -> Ask:
        listener, unix = self._records.listeners.get(asked.listener_id, ("", "unix:"))
        local, sni = asked.local, asked.sni
        return Ask(
            asked,
            asked.session_id,
            listener,
            self._records.pools.get(asked.pool_slot, ""),
            address_text(asked.client),
            asked.client_port,
            self._records.place(local, asked.local_port) if local else unix,
            sni.decode("ascii", "replace") if sni else "",
        )

    def answer(self, answers: list[Answer]) -> None:
        with self._answering:
            for ask, result, target, tags in answers:
                assert isinstance(ask.token, hooks.Ask)
                number = 0
                if target:
                    result, number = self._numbered(ask, result, target)
                if not self._native.answer(ask.token, _NUMBERS[result], number, bool(tags)):
                    self._untaken += 1

    def _numbered(self, ask: Ask, result: HookResult, target: str) -> tuple[HookResult, int]:
        """A backend that is gone is no more usable than one that is down: then the policy chooses."""
        pool = self._pools.owned.get(target if result is HookResult.POOL else ask.pool)
        if result is HookResult.POOL:
            return (result, pool.live.slot) if pool is not None else (HookResult.FAILED, 0)
        backend = pool.backends.get(target) if pool is not None else None
        return result, backend.id if backend is not None else 0

    def counts(self) -> HookCounts:
        return HookCounts(self._native.dropped(), self._untaken)
