"""Where a lab keeps its files, and whose lock says that it is there. What a killed one has left is removed first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.support.namespaces import remove
from tests.support.programs import run


class LabError(Exception):
    """It cannot be had, and why."""


@contextlib.contextmanager
def directory(name: str, roles: Collection[str]) -> Iterator[Path]:
    """The lab's hosts are namespaces that are called `name`-role. LabError when there is a lab of that name."""
    path = Path("/run", f"l4lb-{name}")
    path.mkdir(exist_ok=True)
    holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(holder)
        raise LabError(f'a lab of this name is running: end it, or take another --name than "{name}"') from None
    hosts = {f"{name}-{role}" for role in roles}
    try:
        _clear(hosts, path)
        yield path
    finally:
        _clear(hosts, path)
        path.rmdir()
        os.close(holder)


def _clear(hosts: Collection[str], path: Path) -> None:
    for one in run("ip", "netns", "list").split():
        if one in hosts:
            remove(one)
    for entry in path.iterdir():  # it stays itself: the lock is on it
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
