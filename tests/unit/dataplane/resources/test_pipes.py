"""Pipes are lent empty and come back empty."""

from __future__ import annotations

import os

import pytest

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def test_an_empty_pipe_is_kept_for_the_next() -> None:
    pipes = probe.Pipes()
    first = pipes.take()
    assert pipes.out == 1
    pipes.give()
    assert (pipes.out, pipes.idle) == (0, 1)
    assert pipes.take() == first
    pipes.give()


def test_a_pipe_that_holds_bytes_is_closed() -> None:
    pipes = probe.Pipes()
    read_fd, write_fd, _ = pipes.take()
    pipes.give(leave=b"left over")
    assert (pipes.out, pipes.idle) == (0, 0)
    for fd in (read_fd, write_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_capacity_is_what_the_kernel_gave() -> None:
    import fcntl

    pipes = probe.Pipes()
    read_fd, _, capacity = pipes.take()
    assert fcntl.fcntl(read_fd, fcntl.F_GETPIPE_SZ) >= capacity >= 65536
    pipes.give()
