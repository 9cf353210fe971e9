"""Network namespaces, of this thread or of a whole process, as setns(2) and unshare(2) change them."""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x20000  # linux/sched.h
_MS_REC, _MS_SLAVE, _MNT_DETACH = 0x4000, 0x80000, 2  # linux/mount.h
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def network(name: str) -> None:
    """This thread into the namespace that ``ip netns add`` made."""
    with open(f"/run/netns/{name}", "rb") as namespace:
        _checked(_LIBC.setns(namespace.fileno(), _CLONE_NEWNET))


def new_network() -> None:
    """This thread into a namespace of its own, without devices but for a loopback that is down."""
    _checked(_LIBC.unshare(_CLONE_NEWNET))


def network_of_process(name: str) -> None:
    """This process, which has one thread, as ``ip netns exec`` starts programs: /sys shows the namespace's devices."""
    network(name)
    _checked(_LIBC.unshare(_CLONE_NEWNS))
    _checked(_LIBC.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None))
    flags = 0
    if _LIBC.umount2(b"/sys", _MNT_DETACH) < 0:  # as in some containers: one that may be read only stays so
        flags = os.statvfs("/sys").f_flag & os.ST_RDONLY
    _checked(_LIBC.mount(name.encode(), b"/sys", b"sysfs", flags, None))
