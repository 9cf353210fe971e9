"""A machine with Debian and systemd: a clean root of `roots.py`, booted in namespaces of its own.

Its network has nothing but loopback, so that packages have to be downloaded before.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.roots import command_in, made
from tests.support.systemd import Systemd, running
from tests.support.waiting import wait_until

# What a server has that debootstrap's smallest variant has not.
SERVER = "systemd systemd-sysv dbus curl logrotate man-db bash-completion zsh fish"
# They set up hardware and the kernel, which are this host's.
MASKED = (
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-remount-fs.service",
    "systemd-random-seed.service",
    "systemd-logind.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)
# A /dev of its own, in which /dev/log is not this host's; the kernel's settings can be read only.
BOOT = """
set -e
mkdir -p /tmp/dev
mount -t tmpfs -o mode=755 dev /tmp/dev
mkdir /tmp/dev/pts /tmp/dev/shm
for name in null zero full random urandom tty; do cp -a /dev/$name /tmp/dev; done
ln -s /proc/self/fd /tmp/dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${number%:*} /tmp/dev/${number#*:}; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /tmp/dev/pts
ln -s pts/ptmx /tmp/dev/ptmx
umount -l /dev
mount --move /tmp/dev /dev
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
export container=other
exec /lib/systemd/systemd --system --show-status=no --log-target=console --log-level=notice
"""
ENVIRONMENT = (
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=dumb",
    "DEBIAN_FRONTEND=noninteractive",
)


class Machine:
    """Its `root`, and the systemd that runs in it."""

    def __init__(self, root: Path, systemd: Systemd) -> None:
        self.root = root
        self._systemd = systemd

    def within(self, *command: str) -> list[str]:
        return self._systemd.within(*ENVIRONMENT, *command)

    def run(self, *command: str, check: bool = True) -> str:
        """What it printed."""
        return self._systemd.run(*ENVIRONMENT, *command, check=check, timeout_s=600)

    def shell(self, script: str) -> str:
        return self.run("bash", "-euc", script)

    def shows(self, unit: str, name: str) -> str:
        return self._systemd.shows(unit, name)

    def is_active(self, unit: str) -> bool:
        return self._systemd.is_active(unit)


def in_root(root: Path, command: str, log: Path) -> None:
    """Without systemd, with this host's network."""
    words, environment = command_in(root, command)
    with log.open("a") as output:
        done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    if done.returncode:
        raise SystemExit(f"`{command}` failed with {done.returncode}: see {log}")


def server_root(suite: str, folder: Path) -> Path:
    """A root with SERVER in it, kept from before if there is one. Nothing is ever run in it again: it is copied."""
    kept = folder / f"{suite}-server"
    if not kept.exists():
        unfinished = folder / f"{suite}-server.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        copy(made(suite, folder), unfinished)
        in_root(unfinished, f"apt-get update && apt-get install -y {SERVER}", folder / f"{suite}-server.log")
        unfinished.rename(kept)
    return kept


def copy(root: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", "--reflink=auto", str(root), str(target)], check=True)
    return target


def cannot_boot() -> str:
    """Why no machine can run here; empty: it can."""
    if Path("/run/systemd/system").exists():
        return "this host is systemd's already, whose control groups a second one would share"
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount", "--cgroup", "true"], capture_output=True, text=True)
    return f"no namespaces may be made here: {done.stderr.strip()}" if done.returncode else ""


@contextlib.contextmanager
def machine(root: Path, log: Path, masked: Sequence[str] = MASKED) -> Iterator[Machine]:
    """`root`, booted."""
    for unit in masked:
        path = root / "etc/systemd/system" / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    words, environment = command_in(root, BOOT)
    words[1:1] = ["--ipc", "--cgroup", "--net"]
    with running(words, environment, log) as systemd:
        one = Machine(root, systemd)
        up = ("running", "degraded")
        assert wait_until(lambda: one.run("systemctl", "is-system-running", check=False).strip() in up, 120), (
            systemd.log
        )
        yield one
