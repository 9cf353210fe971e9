"""Real programs: what they are told, how they end, and that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

import pytest
import uvloop

from l4lb.control.checks.checks import NotChecked
from l4lb.control.checks.exec import check_exec
from l4lb.control.state.state import CheckResult
from tests.support.checking import check, target_of
from tests.support.waiting import wait_until


def sh(script: str, *, address: str = "127.0.0.1:80", **settings: object) -> CheckResult:
    return check(address, "exec", command=["/bin/sh", "-c", script], **settings)


def alive(pid: int) -> bool:
    """A process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_exit_codes() -> None:
    assert sh("exit 0").ok
    assert sh("exit 3").reason == "exit code 3"
    assert sh("kill -TERM $$").reason == "killed by SIGTERM"
    assert sh("exit 3").step == "command"


def test_the_first_line_is_in_the_reason() -> None:
    assert sh("echo ' disk is full '; echo more; exit 1").reason == "exit code 1: disk is full"
    assert sh("printf 'a\\033[31m\\377b'; exit 1").reason == "exit code 1: a?[31m\ufffdb"
    assert sh("echo seen >&2; exit 1").reason == "exit code 1"
    assert len(sh("head -c 5000 /dev/zero | tr '\\0' x; exit 1").reason) < 250
    assert sh("head -c 500000 /dev/zero").ok


def test_what_it_is_told() -> None:
    script = "env | grep -Ev '^(PWD|_|SHLVL)=' | sort | tr '\\n' ' '; exit 1"
    result = sh(script, pool="web", timeout=7.5)
    path = os.environ["PATH"]
    told = "L4LB_BACKEND_ADDRESS=127.0.0.1 L4LB_BACKEND_PORT=80 L4LB_POOL=web L4LB_TIMEOUT=7.5 PATH="
    assert result.reason.removeprefix("exit code 1: ") == (told + path)[:200]
    assert sh('echo "$L4LB_BACKEND_ADDRESS,$L4LB_BACKEND_PORT,"; exit 1', address="unix:/run/x").reason.endswith(
        "unix:/run/x,,"
    )
    assert sh('echo "$L4LB_BACKEND_ADDRESS"; exit 1', address="[::1]:80").reason.endswith(": ::1")
    assert sh("read line || exit 0; exit 1").ok  # its input is empty


def test_no_shell() -> None:
    assert check("127.0.0.1:80", "exec", command=["/bin/echo", "$PATH; exit 1"]).ok


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/nowhere/program"], "/nowhere/program: no such file or directory"),
        (["/etc/passwd"], "/etc/passwd: permission denied"),
        (["/bin/sh", "\0"], "/bin/sh: embedded null byte"),
    ],
)
def test_what_cannot_be_started(command: list[str], reason: str) -> None:
    result = check("127.0.0.1:80", "exec", command=command)
    assert (result.ok, result.step, result.reason) == (False, "start", reason)


@pytest.mark.parametrize("deaf", ["", "trap '' TERM INT HUP; "])
def test_the_time_out_kills_it_and_its_children(deaf: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"{deaf}sleep 1000 & echo $! > {pids}; (sleep 1000; :) & echo $! $$ >> {pids}; wait"
    result = sh(script, timeout=0.5)
    assert (result.ok, result.step, result.reason) == (False, "command", "no answer within 0.5 s")
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 3
    assert wait_until(lambda: not any(map(alive, started)))


def test_children_do_not_outlive_a_program_that_has_ended(tmp_path: Path) -> None:
    """Also while they hold its output open, which is not waited for."""
    result = sh(f"sleep 1000 & echo $! > {tmp_path}/pid; exit 0")
    assert result.ok
    assert result.latency_s < 3
    assert wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_endless_output_is_an_error() -> None:
    result = sh("cat /dev/zero")
    assert (result.step, result.reason) == ("command", "printed more than 1 MiB")


def test_cancelling_leaves_nothing() -> None:
    async def main() -> None:
        for _ in range(5):
            task = asyncio.create_task(check_exec(target_of("127.0.0.1:80", "exec", command=["/bin/sleep", "1000"])))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    before = set(children())
    uvloop.run(main())
    assert wait_until(lambda: set(children()) == before)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_many_at_once_on_asyncio_too() -> None:
    async def main() -> None:
        target = target_of("127.0.0.1:80", "exec", command=[sys.executable, "-S", "-c", "print('x' * 100000)"])
        await asyncio.gather(*(check_exec(target) for _ in range(8)))

    asyncio.run(main())
    uvloop.run(main())


def test_without_a_descriptor_for_the_process_nothing_is_said_and_nothing_stays() -> None:
    """Room for the pipe, which is two until the program runs, and for what reports a failed exec; then for no more."""
    target = target_of("127.0.0.1:80", "exec", command=["/bin/sleep", "1000"])
    before = set(children())

    async def main() -> None:
        free = len(os.listdir("/proc/self/fd")) - 1
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        outcomes = set()
        was_open = sorted(os.listdir("/proc/self/fd"))
        for room in range(12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, limits[1]))
            try:
                async with asyncio.timeout(0.1):
                    await check_exec(target)
            except (NotChecked, TimeoutError) as error:
                outcomes.add(type(error))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert sorted(os.listdir("/proc/self/fd")) == was_open, f"with room for {room}"
        assert outcomes == {NotChecked, TimeoutError}

    uvloop.run(main())
    assert set(children()) == before
