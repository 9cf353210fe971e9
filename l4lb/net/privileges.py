"""Drops privileges: from root to a user, with the few capabilities that are still needed.

Ids belong to the process: glibc changes them on all threads (nptl(7)). Capabilities belong to each thread, and a new
one has those of the thread that starts it (capabilities(7)). So `become` is called before threads are started, or on
the one that starts them; threads that are there lose all capabilities with root's id.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

NET_BIND_SERVICE = 10  # linux/capability.h
NET_ADMIN = 12
NET_RAW = 13

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and its groups. `name` is as configured."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def is_current(self) -> bool:
        """Whether this process is that user already, with no way back to another."""
        return os.getresuid() == (self.uid,) * 3 and os.getresgid() == (self.gid,) * 3


def group_id(name: str) -> int:
    """ValueError when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdecimal():
            return int(name)
        raise ValueError(f'"{name}": no such group') from None


def identity_of(user: str, group: str = "") -> Identity:
    """`user` and `group` are names, or numbers where no such name is known; without `group`, the user's own.

    ValueError for one that does not exist, and for root.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise ValueError(f'"{user}": no such user') from None
        if not group:
            raise ValueError(f'"{user}": expected a group with the number of a user') from None
        gid = group_id(group)
        identity = Identity(user, int(user), gid, (gid,))
    else:
        gid = group_id(group) if group else entry.pw_gid
        identity = Identity(user, entry.pw_uid, gid, tuple(sorted(os.getgrouplist(user, gid))))
    if identity.uid == 0:
        raise ValueError(f'"{user}": expected a user other than root')
    return identity


# ---- of the calling thread ----


def _call(function: str, *arguments: object) -> None:
    """A function of the C library that returns 0, or -1 and errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _prctl(option: int, *arguments: int) -> None:
    _call("prctl", option, *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]))


def capabilities() -> frozenset[int]:
    """Those that this thread may use."""
    status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    (bits,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    return frozenset(number for number in range(64) if bits >> number & 1)


def _set_capabilities(numbers: Iterable[int], inheritable: Iterable[int] = ()) -> None:
    """capset(2): these and no others, effective; `inheritable` are what ambient ones must be among."""
    bits, inherited = (sum(1 << number for number in numbers_) for numbers_ in (numbers, inheritable))
    low, high = (
        [effective, effective, passed]
        for effective, passed in ((bits & 0xFFFFFFFF, inherited & 0xFFFFFFFF), (bits >> 32, inherited >> 32))
    )
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)(*low, *high))


def become(identity: Identity, keep: Iterable[int]) -> None:
    """Become that user, with only those capabilities of `keep` that this thread has; neither it nor what it starts can
    get others. OSError EPERM when that is not allowed; nothing has changed then."""
    kept = capabilities() & frozenset(keep)
    if not identity.is_current:
        _prctl(_PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups(identity.groups)
            os.setresgid(identity.gid, identity.gid, identity.gid)
            os.setresuid(identity.uid, identity.uid, identity.uid)
        finally:
            _prctl(_PR_SET_KEEPCAPS, 0)
    _set_capabilities(kept)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


@contextlib.contextmanager
def lent_to_programs() -> Iterator[None]:
    """Programs that this thread starts meanwhile get its capabilities, which a user's programs otherwise lack."""
    kept = capabilities()
    _set_capabilities(kept, kept)
    try:
        for number in kept:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
        yield
    finally:
        _set_capabilities(kept)  # what is not inheritable is not ambient either


def may_write(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def cannot_become(identity: Identity, error: OSError) -> str:
    """Why `become` failed, for people."""
    if error.errno == errno.EPERM:
        return f'"{identity.name}": only root may become another user, and this process is user {os.geteuid()}'
    return f'"{identity.name}": {error.strerror}'
