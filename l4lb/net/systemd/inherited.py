"""The sockets that the service manager passed to this process: sd_listen_fds(3)."""

from __future__ import annotations

import errno
import os

FIRST_INHERITED_FD = 3  # SD_LISTEN_FDS_START


def inherited_names() -> list[str]:
    """Their names, in order; the first is descriptor FIRST_INHERITED_FD. EINVAL when their count is no number."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS") or "0"
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise OSError(errno.EINVAL, f'LISTEN_FDS is "{count}": expected a number')
    return os.environ.get("LISTEN_FDNAMES", "").split(":")[: int(count)]
