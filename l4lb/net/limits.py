"""File descriptors as a budget: the limit is raised as far as it goes, and the number of sessions follows from it."""

from __future__ import annotations

import resource

FDS_A_SESSION = 2  # client and backend; a bulk flow borrows a pipe where there is room and copies where there is none
FDS_RESERVED = 512  # Python, epoll, listening sockets, health checks, admin API, some pipes


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sessions_for(file_limit: int) -> int:
    """How many TCP sessions fit into `file_limit` descriptors; at least 1."""
    if file_limit == resource.RLIM_INFINITY:
        return 0
    reserved = min(FDS_RESERVED, file_limit // 2)
    return max(1, (file_limit - reserved) // FDS_A_SESSION)
