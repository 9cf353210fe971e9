"""Full NAT: the addresses of this host that backends see, by the numbers that services and flows have for them.

A number stays its address's for as long as the maps are there, since flows may have it. The host itself connects from
the ports of net.ipv4.ip_local_port_range: the others are for full NAT.
"""

from __future__ import annotations

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.net.environment import forwarding_ports

_SIZE = layout.SIZES["source"]


class Sources:
    """`fd` is the kernel's array, which other processes may have written before this one. Control thread only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def number(self, host: str) -> int:
        """From 1 on. MemoryError when there is none left; OSError."""
        wanted = layout.address(host)
        for number in range(1, layout.SOURCES_MAX):
            key = number.to_bytes(4, "little")
            known = kernel.lookup(self._fd, key, _SIZE) or bytes(_SIZE)
            if known == bytes(_SIZE) or layout.source_address(known) == wanted:
                made = layout.source(host, forwarding_ports())
                if made != known:
                    kernel.update(self._fd, key, made)
                return number
        raise MemoryError(f"more than {layout.SOURCES_MAX - 1} addresses as source_address since the start")
