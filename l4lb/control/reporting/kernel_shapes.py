"""Of the admin API's answers what is about forwarding in the kernel; see `shapes.py`."""

from __future__ import annotations

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

_EXACT = with_config(ConfigDict(extra="forbid"))


@_EXACT
class Traffic(TypedDict):
    """What the kernel forwarded: packets, and their bytes as a whole. `packets_down` and `bytes_down` are null where
    backends answer clients directly, so that nobody here sees it. By tcx, what counts as one packet may be several of a
    connection that the kernel has joined."""

    packets_up: int
    packets_down: int | None
    bytes_up: int
    bytes_down: int | None


@_EXACT
class Device(TypedDict):
    """By which device packets come to the programs in the kernel, `way` (tcx, native or generic), and what was tried
    before that."""

    device: str
    way: str
    tried: str


@_EXACT
class InKernel(TypedDict):
    """How the kernel forwards a listener's packets: nat, dsr or tunnel, and by which devices it sees them."""

    mode: str
    devices: list[Device]
    traffic: Traffic
