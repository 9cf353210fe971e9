"""Says by which devices packets go through programs in the kernel, how, and what else was tried. Control loop only."""

from __future__ import annotations

from collections.abc import Mapping

from l4lb.control.state.events import Events
from l4lb.model.stats import Stats


class Devices:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: Mapping[str, tuple[str, str]] = {}

    def report(self, stats: Stats) -> None:
        """What has changed since the last call. Called at the start, and at regular intervals."""
        for device, (way, tried) in stats.kernel_devices.items():
            if self._known.get(device) != (way, tried):
                reason = {"reason": f"not {tried}"} if tried else {}
                self._events.emit("device_attached", {"device": device, "by": way, **reason})
        self._known = stats.kernel_devices
