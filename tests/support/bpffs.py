"""A file system for what is pinned in the kernel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.engine.kernel.pinning import mounted
from tests.support.exclusive import exclusive
from tests.support.programs import run

USUAL = Path("/sys/fs/bpf")


@contextlib.contextmanager
def bpffs() -> Iterator[Path]:
    """The one that is mounted, or the usual one for as long as this lasts; one test after the other. Nothing new is
    left there."""
    with exclusive("bpffs"):
        with _mounted() as place:
            yield place


@contextlib.contextmanager
def _mounted() -> Iterator[Path]:
    found = mounted()
    if found is None and os.geteuid() != 0:
        pytest.skip("no bpffs is mounted, and only root can mount one")
    if found is None:
        run("mount", "-t", "bpf", "bpf", str(USUAL))
    place = found or USUAL
    before = set(os.listdir(place))
    try:
        yield place
        assert set(os.listdir(place)) <= before
    finally:
        for name in set(os.listdir(place)) - before:
            run("rm", "-r", str(place / name))
        if found is None:
            run("umount", "--lazy", str(USUAL))
