"""`l4lb` that gives root's rights up: what another user needs to be able to run it, and what its threads may do."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import require

OTHER_USER = "nobody"


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


@contextlib.contextmanager
def directory_of_all() -> Iterator[Path]:
    """As `tmp_path`, but every user may look into it."""
    directory = Path(tempfile.mkdtemp(prefix="l4lb-users-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def interpreter_of_all() -> list[str]:
    """A command that starts another where every user can run this Python: its home may be root's alone. In a mount
    namespace of its own; nothing changes outside."""
    for above in [*reversed(Path(sys.base_prefix).parents)]:
        if not above.stat().st_mode & stat.S_IXOTH:
            shell = f"""
                set -e
                held=$(mktemp -d)
                mount --bind '{sys.base_prefix}' "$held"
                mount -t tmpfs -o mode=755 l4lb-test '{above}'
                mkdir -p '{sys.base_prefix}'
                mount --bind "$held" '{sys.base_prefix}'
                umount "$held"; rmdir "$held"
                exec "$@"
            """
            return [require("unshare"), "--mount", "--propagation", "private", "sh", "-c", shell, "sh"]
    return []


@dataclass(frozen=True)
class Rights:
    """What /proc says of a thread."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    permitted: int
    effective: int
    inheritable: int
    ambient: int
    no_new: bool


def _rights(status: str) -> Rights:
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    ids = [tuple(map(int, fields[key].split())) for key in ("Uid", "Gid", "Groups")]
    sets = [int(fields[key], 16) for key in ("CapPrm", "CapEff", "CapInh", "CapAmb")]
    return Rights(*ids, *sets, fields["NoNewPrivs"].strip() == "1")


def rights_of(pid: int) -> dict[str, Rights]:
    """Of every thread, by its name and number."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return {
        f"{(task / 'comm').read_text().strip()} {task.name}": _rights((task / "status").read_text()) for task in tasks
    }
