"""systemd itself, as process 1 of namespaces of its own, with units of the test's. It has the network of the test."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.exclusive import exclusive
from tests.support.waiting import wait_until

SYSTEMD = "/lib/systemd/systemd"
_APART = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "--ipc", "--cgroup"]
_BOOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
cp {units}/* /run/systemd/system/
export container=other SYSTEMD_UNIT_PATH=/run/systemd/system  # no unit of this host: some clear /tmp
exec {systemd} --system --unit={target} --show-status=no --log-target=console --log-level=notice
"""


class Systemd:
    """`process`: the command that made the namespaces; `pid`: systemd's, outside of them."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        assert wait_until(lambda: _children(process), 20), self.log
        (self.pid,) = _children(process)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def within(self, *command: str) -> list[str]:
        """The words of a command in its namespaces."""
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"]
        return ["nsenter", "-t", str(self.pid), *spaces, *command]

    def run(self, *command: str, check: bool = True, timeout_s: float = 90.0) -> str:
        """Within the namespaces; what it printed."""
        done = subprocess.run(self.within(*command), capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr, self.log)
        return done.stdout

    def is_active(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", unit, check=False).strip() == "active"

    def shows(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()


@functools.cache
def _can_boot() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run([*_APART, "true"], capture_output=True).returncode == 0


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def _groups() -> set[Path]:
    """The control groups that a systemd has made."""
    found = (Path(directory) for directory, _, _ in os.walk("/sys/fs/cgroup"))
    return {one for one in found if {"init.scope", "system.slice"}.intersection(one.parts)}


def _remove_groups(groups: set[Path]) -> list[Path]:
    """Those that are left, since a process of theirs has not ended yet (EBUSY)."""
    for group in sorted(groups, key=lambda one: len(one.parts), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()
    return [group for group in groups if group.exists()]


@contextlib.contextmanager
def booted(directory: Path, units: Mapping[str, str], target: str) -> Iterator[Systemd]:
    """With these units and no others, of which `target` is started. Skips where it cannot run."""
    if not Path(SYSTEMD).exists():
        pytest.skip("systemd is not installed")
    if Path("/run/systemd/system").exists():
        pytest.skip("this host is systemd's already, whose control groups it would share")
    if not _can_boot():
        pytest.skip("no namespaces may be made here")
    there = directory / "units"
    there.mkdir()
    for name, text in units.items():
        (there / name).write_text(text)
    script = directory / "boot.sh"
    script.write_text(_BOOT.format(units=there, systemd=SYSTEMD, target=target))
    with running([*_APART, "sh", str(script)], None, directory / "systemd.log") as systemd:
        yield systemd


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] | None, log: Path) -> Iterator[Systemd]:
    """The systemd that `command` starts, as process 1 of namespaces that it makes before."""
    with exclusive("systemd"), log.open("wb") as output:  # two would take each other's control groups
        before = _groups()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield Systemd(process, log)
        finally:
            for pid in _children(process):  # process 1 of a namespace, which takes the others with it
                os.kill(pid, signal.SIGKILL)
            process.wait()
            assert wait_until(lambda: not _remove_groups(_groups() - before), 20), "its control groups are left"
