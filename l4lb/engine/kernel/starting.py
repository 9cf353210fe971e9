"""The kernel's forwarder as a process of `l4lb` has it: new, from the process that it replaces, or from one that is
gone and whose forwarding is pinned."""

from __future__ import annotations

import os
from pathlib import Path

from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.engine.kernel.inherited import Inherited
from l4lb.engine.kernel.pinning import Keeping, Pins, directory_for
from l4lb.errors import ConfigError, Problem
from l4lb.model.forwarder import Pinning


def started(pinning: Pinning | None) -> KernelForwarder:
    """Without a process before. OSError: see `KernelForwarder`; ConfigError: nothing can be pinned."""
    return _made(pinning, None, _pins(pinning))


def taken_over(pinning: Pinning | None, inherited: Inherited, lock: int | None) -> KernelForwarder:
    """From a process that runs; `lock` is the directory of its pins, which is this one's from now on."""
    if lock is None:
        return _made(pinning, inherited, _pins(pinning))
    return _made(pinning, inherited, Pins(Path(os.readlink(f"/proc/self/fd/{lock}")), lock))


def _made(pinning: Pinning | None, inherited: Inherited | None, pins: Pins | None) -> KernelForwarder:
    """Without `inherited`, from what is pinned, if anything is. OSError, ConfigError; then it stays pinned."""
    try:
        if inherited is None and pins is not None:
            inherited = pins.found()
        is_wanted = pinning is not None and pinning.wanted
        keeping = Keeping(pins) if is_wanted else Keeping(unwanted=pins)
        return KernelForwarder(images(), inherited=inherited, keeping=keeping)
    except BaseException:
        if pins is not None:
            pins.close()
        raise


def _pins(pinning: Pinning | None) -> Pins | None:
    """Those that are wanted, or are there though they are not."""
    if pinning is None:
        return None
    path = directory_for(pinning.file)
    try:
        if pinning.wanted:
            return Pins.made(path, pinning.owner)
        return Pins.at(path, pinning.owner) if path is not None and _is_seen(path) else None
    except OSError as error:
        raise ConfigError([Problem("global.kernel_pin", f"cannot be had: {error.strerror}")]) from error


def _is_seen(path: Path) -> bool:
    """False also where this user may not look (EACCES): systemd mounts the bpffs for root alone."""
    try:
        return path.exists()
    except PermissionError:
        return False


def forget_pinned(pinning: Pinning) -> None:
    """Nothing is to be forwarded in the kernel any more. ConfigError: what is there is another process's."""
    pins = _pins(Pinning(pinning.file, False, pinning.owner))
    if pins is not None:
        pins.remove()
        pins.close()
