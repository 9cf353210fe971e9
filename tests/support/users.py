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

import l4lb
from tests.support.programs import require

OTHER_USER = "nobody"


def unused_uid() -> int:
    """The id of a user who runs nothing: RLIMIT_NPROC counts all processes of a user, also those of other tests."""
    busy = set()
    for path in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            busy.add(path.stat().st_uid)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return next(uid for uid in range(40_000 + 100 * worker, 50_000) if uid not in busy)


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


def _closed_above(place: Path) -> Path | None:
    """The first folder on the way to it that only its owner may enter."""
    above = reversed(place.parents)
    return next((folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH), None)


def _open_again(places: list[Path]) -> str:
    """Shell: every closed folder is covered by an open one, which has nothing but the places in it."""
    held = {place: f'"$held/{number}"' for number, place in enumerate(places)}
    closed = sorted({str(_closed_above(place)) for place in places})
    return "\n".join(
        [
            "set -e; held=$(mktemp -d)",
            *(f"mkdir {at}; mount --bind '{place}' {at}" for place, at in held.items()),
            *(f"mount -t tmpfs -o mode=755 l4lb-test '{folder}'" for folder in closed),
            *(f"mkdir -p '{place}'; mount --bind {at} '{place}'; umount {at}" for place, at in held.items()),
            'rm -d "$held"/* "$held"; cd /; exec "$@"',
        ]
    )


def interpreter_of_all() -> list[str]:
    """A command that starts another where every user can run this Python and this l4lb: their folders may be root's
    alone. In a mount namespace of its own; nothing changes outside."""
    wanted = {Path(sys.base_prefix), Path(sys.prefix), Path(l4lb.__file__).parent.parent}
    places = [one for one in sorted(wanted) if _closed_above(one) and wanted.isdisjoint(one.parents)]
    if not places:
        return []
    return [require("unshare"), "--mount", "--propagation", "private", "sh", "-c", _open_again(places), "sh"]


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
    """Of every thread, by its name and number. One that ends meanwhile is left out."""
    rights: dict[str, Rights] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rights[f"{(task / 'comm').read_text().strip()} {task.name}"] = _rights((task / "status").read_text())
    return rights
