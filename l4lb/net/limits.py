"""File descriptors as a budget: the limit is raised as far as it goes, and the number of sessions follows from it.
Memory: whether there is enough to begin with."""

from __future__ import annotations

import mmap
import resource

from l4lb.errors import EngineError

FDS_A_SESSION = 2  # client and backend; a bulk flow borrows a pipe where there is room and copies where there is none
_STACK_BYTES = 2 << 20  # pthread_attr_setstacksize(3): where RLIMIT_STACK is unlimited
_SPARE_BYTES = 32 << 20
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


def expect_memory_for(threads: int) -> None:
    """EngineError when so many threads cannot have a stack each, and something to work with. pthread_create(3) would
    say so too, but not Python of a thread that ran out of memory while it began: who started it waits for ever."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack == resource.RLIM_INFINITY:
        stack = _STACK_BYTES
    needed = threads * stack + _SPARE_BYTES
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, OverflowError, MemoryError) as error:  # ENOMEM: RLIMIT_AS, RLIMIT_DATA
        reason = f"{threads} threads need {needed >> 20} MiB (stacks, see `ulimit -s`); see `ulimit -d` and `ulimit -v`"
        raise EngineError(f"out of memory: {reason}") from error
