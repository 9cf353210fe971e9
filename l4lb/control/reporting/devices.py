"""Says by which devices packets go through programs in the kernel, how, and what else was tried. Control loop only."""

from __future__ import annotations

from l4lb.control.state.events import Events
from l4lb.model.stats import Device, Stats


class Devices:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: tuple[Device, ...] = ()

    def report(self, stats: Stats) -> None:
        """What has changed since the last call. Called at the start, and at regular intervals."""
        for one in stats.kernel_devices:
            if one not in self._known:
                reason = {"reason": f"not {one.tried}"} if one.tried else {}
                self._events.emit("device_attached", {"device": one.name, "by": one.way, **reason})
        self._known = stats.kernel_devices
