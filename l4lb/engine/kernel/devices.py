"""The devices by which packets come to the programs. Control thread only."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence

from l4lb._native import kernel
from l4lb.engine.kernel.attaching import Attached, attach, packet_devices
from l4lb.engine.kernel.pinning import Keeping
from l4lb.errors import Problem
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import KernelTerms, ListenerSpec

GetProgram = Callable[[str], kernel.Program]  # xdp or tcx


class Devices:
    """`attached`: those of the process before; `keeping`: where links are kept."""

    def __init__(self, attached: Iterable[Attached], keeping: Keeping) -> None:
        self._keeping = keeping
        self._attached = {one.device: one for one in attached}
        self._needed: dict[str, Sequence[str]] = {}  # by listeners

    @property
    def attached(self) -> list[Attached]:
        return list(self._attached.values())

    def attached_for(self, listener: str) -> list[Attached]:
        """Those that a listener needs."""
        needed = self._needed.get(listener, ())
        return [one for one in self._attached.values() if one.device in needed]

    def attach_for(self, listener: ListenerSpec, terms: KernelTerms, program: GetProgram) -> Iterator[Problem]:
        """See packets by all devices that it needs; the problems are those that cannot be had."""
        devices = self._needed[listener.name] = terms.devices or _devices(listener, terms)
        if not devices:
            yield Problem(f"listeners.{listener.name}.devices", "no device has its packets: name them")
        for device in devices:
            if (known := self._attached.get(device)) is not None:
                if terms.attach not in ("auto", known.way):
                    message = f'"{terms.attach}": device "{device}" is attached by {known.way} already'
                    yield Problem(f"listeners.{listener.name}.attach", message)
                continue
            try:
                attached = attach(program, device, terms.attach)
                self._keeping.keep_link(attached)
                self._attached[device] = attached
            except OSError as error:
                yield Problem(f"listeners.{listener.name}.devices", str(error.strerror or error))

    def replace(self, program: GetProgram) -> None:
        """Packets go through these programs from now on. Devices that are gone are forgotten."""
        for device, one in list(self._attached.items()):
            try:
                if not kernel.device_of(one.link.number):
                    raise OSError(errno.ENODEV, device)
                program(one.program).replace(one.link)
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENOLINK):
                    raise
                del self._attached[device]

    def close(self) -> None:
        self._attached = {}


def _devices(listener: ListenerSpec, terms: KernelTerms) -> Sequence[str]:
    """Sorted."""
    hosts: dict[int, list[str]] = {}
    for address in listener.bind:
        if isinstance(address, SocketAddress):
            hosts.setdefault(address.family, []).append(address.host)
    every = terms.mode == "nat"
    found = {name for family, those in hosts.items() for name in packet_devices(family, those, all_of_them=every)}
    return sorted(found)
