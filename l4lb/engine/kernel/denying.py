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

    def set(self, wanted: Iterable[tuple[KernelListener, Lists]]) -> None:
        """These ranges for these listeners. New networks come first, so that a failure can be undone: OSError ENOSPC
        when the trie is full, and nothing has changed."""
        changes = [(one, lists, _networks(one, lists)) for one, lists in wanted if lists != one.lists]
        added: list[bytes] = []
        try:
            for one, _, networks in changes:
                for key in networks - one.denied:
                    kernel.update(self._fd.number, key, bytes(4))
                    added.append(key)
        except OSError:
            for key in added:
                kernel.delete(self._fd.number, key)
            raise
        for one, lists, networks in changes:
            for key in one.denied - networks:
                kernel.delete(self._fd.number, key)
            one.lists, one.denied = lists, networks

    def all(self) -> list[bytes]:
        """What is in the trie."""
        return kernel.keys(self._fd.number, layout.SIZES["denied_key"])


def _networks(listener: KernelListener, lists: Lists) -> frozenset[bytes]:
    return frozenset(key for ranges in lists for key in layout.denied(ranges, listener.number))
