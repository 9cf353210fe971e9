"""Networks whose clients are denied, by listener, in the kernel's trie. Control thread only."""

from __future__ import annotations

from collections.abc import Iterable

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.listeners import KernelListener

Lists = tuple[bytes, bytes]


class Denied:
    """`fd` is that of the trie."""

    def __init__(self, fd: kernel.Fd) -> None:
        self._fd = fd

    def set_all(self, wanted: Iterable[tuple[KernelListener, Lists]]) -> None:
        """All of them, or, with OSError ENOSPC when the trie is full, none."""
        before = [(listener, listener.denied, listener.lists) for listener, _ in wanted]
        try:
            for listener, lists in wanted:
                self.set(listener, lists)
        except OSError:
            for listener, networks, known in before:
                self._replace(listener, networks)
                listener.lists = known
            raise

    def set(self, listener: KernelListener, lists: Lists) -> None:
        """What these ranges are for a listener. OSError ENOSPC, and nothing has changed."""
        if lists == listener.lists:
            return
        networks = (key for ranges in lists for key in layout.denied(ranges, listener.number))
        self._replace(listener, frozenset(networks))
        listener.lists = lists

    def _replace(self, listener: KernelListener, wanted: frozenset[bytes]) -> None:
        added: list[bytes] = []
        try:
            for key in wanted - listener.denied:
                kernel.update(self._fd.number, key, bytes(4))
                added.append(key)
        except OSError:
            for key in added:
                kernel.delete(self._fd.number, key)
            raise
        for key in listener.denied - wanted:
            kernel.delete(self._fd.number, key)
        listener.denied = wanted

    def all(self) -> list[bytes]:
        """What is in the trie."""
        return kernel.keys(self._fd.number, layout.SIZES["denied_key"])
