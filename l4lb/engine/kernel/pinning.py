"""What forwards in the kernel, kept there without a process: maps, programs and links under names in a bpffs, in a
directory that one l4lb has at a time (bpf(2), BPF_OBJ_PIN; a name in a bpffs has no dot).

    l4lb-KEY/                                 locked by the process that forwards (flock(2)), until it ends
        links/WAY:DEVICE                      a link stays there while programs come and go
        NUMBER-LAYOUT-XDP-TCX/maps:NAME       a generation: what its maps mean, and digests of its programs' images
        NUMBER-LAYOUT-XDP-TCX/programs:NAME
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote

from l4lb._native import kernel
from l4lb.engine.kernel.attaching import Attached
from l4lb.engine.kernel.generation import Generation
from l4lb.engine.kernel.inherited import Inherited
from l4lb.net.handover import close_all

logger = logging.getLogger("l4lb")
_LINKS, _UNFINISHED = "links", "unfinished"
_GENERATION = re.compile(r"\d+-\w+-\w+-\w+")
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # they say nothing of a program
_NO_BPFFS = "no file system for it is mounted: mount -t bpf bpf /sys/fs/bpf"


def directory_for(file: str) -> Path | None:
    """That of the l4lb with this configuration, a file or a URL, in this network namespace. None: no bpffs is
    mounted."""
    found = mounted()
    namespace = os.stat("/proc/self/ns/net").st_ino
    where = file if "://" in file else os.path.realpath(file)
    key = sha256(f"{where}\0{namespace}".encode()).hexdigest()[:16]
    return found / f"l4lb-{key}" if found is not None else None


def mounted() -> Path | None:
    """The bpffs of this process, the usual one first: proc_pid_mountinfo(5)."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    places = [fields[4] for fields in map(str.split, lines) if fields[fields.index("-") + 1] == "bpf"]
    return Path(min(places, key=lambda place: place != "/sys/fs/bpf")) if places else None


class Pins:
    """`fd` is that of the directory at `path`, locked. Control thread only."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def at(cls, path: Path, owner: int) -> Pins:
        """What an l4lb that is gone, and was root or this user, has left there. OSError: ENOENT; EBUSY, another one has
        it; EPERM, EACCES, also for what is somebody else's."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _expect_ours(path, fd, owner)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise OSError(errno.EBUSY, "another l4lb with this configuration forwards") from None
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    @classmethod
    def made(cls, path: Path | None, owner: int) -> Pins:
        """The same, which is made if it is not there. OSError: see `at`."""
        if path is None:
            raise OSError(errno.ENOENT, _NO_BPFFS)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        return cls.at(path, owner)

    def fileno(self) -> int:
        """The lock goes with it to another process."""
        return self._fd

    # ---- what is there ----

    def found(self) -> Inherited | None:
        """What an l4lb that is gone has left. None: nothing, or nothing that can be gone on with, which is removed.
        OSError: it cannot be opened (EPERM, EMFILE), and stays."""
        if newest := self.newest():
            about, paths = self._left(newest)
            fds: list[int] = []
            try:
                for path in paths:
                    one = kernel.pinned(str(path))
                    fds.append(os.dup(one.number))
                return Inherited.of(about, fds)
            except OSError:
                close_all(fds)
                raise
            except ValueError as error:
                close_all(fds)
                logger.warning("pinned forwarding removed", extra={"fields": {"reason": str(error)}})
        self._remove_all()
        return None

    def _left(self, newest: str) -> tuple[dict[str, object], list[Path]]:
        """What is to be said of that generation and of links (see `Inherited.about`), and where all of it is."""
        _, layout, xdp, tcx = newest.split("-")
        names = sorted(os.listdir(self._path / newest))  # maps, then programs
        links = sorted(_names(self._path / _LINKS))
        about: dict[str, object] = {
            "layout": layout,
            "images": {"xdp": xdp, "tcx": tcx},
            "maps": [what for kind, _, what in (name.partition(":") for name in names) if kind == "maps"],
            "programs": [what for kind, _, what in (name.partition(":") for name in names) if kind == "programs"],
            "links": [
                {"device": unquote(device), "way": way, "why": ""}
                for way, _, device in (name.partition(":") for name in links)
            ],
        }
        return about, [*(self._path / newest / name for name in names), *(self._path / _LINKS / name for name in links)]

    def _generations(self) -> list[str]:
        return [name for name in os.listdir(self._fd) if _GENERATION.fullmatch(name)]

    # ---- what is put there ----

    def keep(self, generation: Generation) -> str:
        """Under a name that is returned: all of it, or nothing. OSError."""
        number = max(map(_number, self._generations()), default=0) + 1
        self._remove(_UNFINISHED)
        unfinished = self._path / _UNFINISHED
        os.mkdir(_UNFINISHED, 0o700, dir_fd=self._fd)
        for name, fd in generation.maps.items():
            kernel.pin(fd.number, str(unfinished / f"maps:{name}"))
        for name, program in generation.programs.items():
            kernel.pin(program.fileno(), str(unfinished / f"programs:{name}"))
        name = f"{number}-{kernel.LAYOUT}-{generation.digests['xdp']}-{generation.digests['tcx']}"
        os.rename(_UNFINISHED, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return name

    def keep_link(self, one: Attached) -> None:
        """OSError."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(_LINKS, 0o700, dir_fd=self._fd)
        links, device = self._path / _LINKS, quote(one.device).replace(".", "%2E")
        for name in _names(links):
            if name.partition(":")[2] == device:  # one of that name is gone
                os.unlink(links / name)
        kernel.pin(one.link.number, str(links / f"{one.way}:{device}"))

    def newest(self) -> str:
        """Empty: there is none."""
        return max(self._generations(), key=_number, default="")

    def keep_only(self, kept: str) -> None:
        """Of the generations."""
        for name in self._generations():
            if name != kept:
                self._remove(name)

    def remove(self) -> None:
        """Everything: what no process has goes with it. What may not be removed (EACCES) stays as it is: the directory
        itself, when the one above is root's."""
        self._remove_all()
        with contextlib.suppress(OSError):
            os.rmdir(self._path)

    def _remove_all(self) -> None:
        for name in (_LINKS, _UNFINISHED, *self._generations()):
            self._remove(name)

    def _remove(self, directory: str) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                for name in os.listdir(fd):
                    os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(directory, dir_fd=self._fd)

    def chown(self, uid: int, gid: int) -> None:
        """So that this user can remove it. OSError EPERM."""
        for _, _, names, fd in os.fwalk(".", dir_fd=self._fd):
            os.fchown(fd, uid, gid)
            for name in names:
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def close(self) -> None:
        """What is there stays; the lock ends unless another process has it too."""
        os.close(self._fd)


class Keeping:
    """Where a forwarder keeps what it has in the kernel, in case its process does not end by itself. `pins`: there, if
    anywhere; `unwanted`: where the process before kept it, until `end_unwanted`. Control thread only."""

    def __init__(self, pins: Pins | None = None, unwanted: Pins | None = None) -> None:
        self._pins = pins
        self._unwanted = unwanted

    def _all(self) -> Iterable[Pins]:
        return filter(None, (self._pins, self._unwanted))

    # ---- while it forwards ----

    def begin(self, generation: Generation, inherited: Inherited | None, attached: Iterable[Attached]) -> None:
        """With these, unless they are there already. OSError."""
        if self._pins is None:
            return
        try:
            generation.load(("xdp", "tcx"))
        except OSError as error:  # tcx is newer than the kernel, and then never needed; or there is no right to load
            if error.errno in _SHORTAGES:
                raise
        there = self._pins.newest()
        generation.pinned = there if there and generation.is_of(inherited) else self._pins.keep(generation)
        for one in attached if not there else ():
            self._pins.keep_link(one)

    def keep(self, generation: Generation) -> None:
        """OSError."""
        if self._pins is not None:
            generation.pinned = self._pins.keep(generation)

    def keep_link(self, one: Attached) -> None:
        """OSError."""
        if self._pins is not None:
            self._pins.keep_link(one)

    def keep_only(self, generation: Generation) -> None:
        if self._pins is not None:
            self._pins.keep_only(generation.pinned)

    def end_unwanted(self) -> None:
        if self._unwanted is not None:
            self._unwanted.remove()
            self._unwanted.close()
            self._unwanted = None

    # ---- for others ----

    def lock(self) -> list[int]:
        """The descriptor by which another process keeps it from then on; empty: it is not kept."""
        return [self._pins.fileno()] if self._pins is not None else []

    def chown(self, uid: int, gid: int) -> None:
        """So that this user can remove it. OSError EPERM."""
        for pins in self._all():
            pins.chown(uid, gid)

    # ---- the end ----

    def give_up(self) -> None:
        """What is kept stays. Idempotent."""
        for pins in self._all():
            pins.close()
        self._pins = self._unwanted = None

    def remove(self) -> None:
        """What is kept, and is not another process's to take over."""
        if self._pins is not None:
            self._pins.remove()


def _expect_ours(path: Path, fd: int, owner: int) -> None:
    """Whoever may write there could have us run programs of theirs."""
    found = os.fstat(fd)
    if found.st_uid not in (0, owner):
        raise OSError(errno.EPERM, f"{path} is somebody else's")
    if found.st_mode & 0o022:
        raise OSError(errno.EPERM, f"{path} may be written to by others")


def _number(generation: str) -> int:
    return int(generation.partition("-")[0])


def _names(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(path)
    return []
