"""`make lab`: what its check finds, that what it tells a person to paste works, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.lab.servers import PROGRAMS
from tests.support.programs import require, run
from tests.support.slow import first_and_slow
from tests.support.users import require_root
from tests.support.waiting import wait_until

NAME = f"l4lab-{os.getpid()}"


def left_behind() -> list[str]:
    """Namespaces, files, and processes of any lab of this name."""
    found = [f"namespace {one}" for one in run("ip", "netns", "list").split() if one.startswith(NAME)]
    if (directory := Path(f"/run/l4lb-{NAME}")).exists():
        found.append(str(directory))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if f"{NAME}\0".encode() in (said := path.read_bytes()) or f"/l4lb-{NAME}/".encode() in said:
                found.append(said.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    require_root()
    for program in PROGRAMS:
        require(program)
    links = run("ip", "-o", "link")
    yield
    assert wait_until(lambda: not left_behind(), 20), left_behind()
    assert run("ip", "-o", "link") == links


class Running:
    """A lab that somebody has started, and what it printed."""

    def __init__(self, log: Path, arguments: Sequence[str], path: str = "") -> None:
        self._log = log
        environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab", "--name", NAME, *arguments],
                env=environment, stdout=output, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        assert wait_until(lambda: text in self.said or self.process.poll() is not None, 120)
        assert text in self.said, self.said

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def lab(log: Path, *arguments: str, path: str = "") -> Iterator[Running]:
    running = Running(log, arguments, path)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


CHECKS = [
    ("--mode", "nat", "--family", "4", "--attach", "tcx"),
    ("--mode", "dsr", "--family", "6", "--attach", "native"),
    ("--mode", "full", "--family", "6", "--attach", "tcx"),
    ("--mode", "gue", "--family", "6", "--attach", "tcx"),
    ("--two-tiers", "--mode", "tunnel", "--family", "4", "--attach", "tcx"),
]


@pytest.mark.parametrize("arguments", first_and_slow(*CHECKS), ids=" ".join)
def test_all_hold(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with lab(tmp_path / "log", "--check", *arguments) as running:
        assert running.process.wait(300) == 0, running.said
        assert "1 checked, all hold" in running.said


def pasted(said: str) -> list[str]:
    """The commands that it says, but the one that shows a screen."""
    found = re.findall(r"^  # .*\n  (.*)$", said, re.MULTILINE)
    assert len(found) > 5, said
    return [one for one in found if "l4lb top" not in one]


@pytest.mark.parametrize("tiers", first_and_slow(1, 2))
def test_what_it_says_can_be_pasted(tiers: int, tmp_path: Path) -> None:
    with lab(tmp_path / "log", *(["--two-tiers"] if tiers == 2 else [])) as running:
        running.wait_for("Ctrl-C ends it")
        for command in pasted(running.said):
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert done.stdout or command.startswith("kill"), command
        running.wait_for("has ended with -9")
        assert running.end(signal.SIGINT) == 0, running.said


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("in its start", signal.SIGINT),
        ("running", signal.SIGTERM),
        pytest.param("running", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("in a check", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("in a check", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_it(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    with lab(tmp_path / "log", *(["--check"] if moment == "in a check" else [])) as running:
        if moment == "in its start":
            assert wait_until(lambda: f"namespace {NAME}-client" in left_behind())
        else:
            running.wait_for("Ctrl-C ends it" if moment == "running" else "attach")
        assert running.end(number) == (128 + number if moment == "in a check" else 0), running.said


def test_a_server_that_does_not_start_ends_it(tmp_path: Path) -> None:
    broken = tmp_path / "dnsmasq"
    broken.write_text("#!/bin/sh\necho no room for this >&2\nexit 3\n")
    broken.chmod(0o755)
    with lab(tmp_path / "log", path=str(tmp_path)) as running:
        assert running.process.wait(120) == 1
        assert re.search(r"backend-[123]-dnsmasq has ended with 3", running.said)  # whichever is seen first
        assert "no room for this" in running.said


def test_what_a_killed_one_has_left_goes_with_the_next(tmp_path: Path) -> None:
    with lab(tmp_path / "log") as running:
        running.wait_for("Ctrl-C ends it")
        with lab(tmp_path / "other") as other:
            assert other.process.wait(60) == 1
            assert "a lab of this name is running" in other.said
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: not any("l4lb serve" in one for one in left_behind()), 20), left_behind()
    assert left_behind()
    with lab(tmp_path / "log") as running:
        running.wait_for("Ctrl-C ends it")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode", "direct"], "--mode: invalid choice: 'direct' (choose from 'nat', 'full', 'dsr', 'tunnel', 'gue')"),
        (["--family", "5"], "--family: invalid choice: 5 (choose from 4, 6)"),
        (["--attach", "xdp"], "--attach: invalid choice: 'xdp' (choose from 'tcx', 'native', 'generic')"),
        (["--name", "../etc"], 'argument --name: "../etc": expected up to 31 letters'),
    ],
)
def test_values_that_it_does_not_know(arguments: list[str], expected: str, tmp_path: Path) -> None:
    with lab(tmp_path / "log", *arguments) as running:
        assert running.process.wait(60) == 2
        assert expected.replace("'", "") in running.said.replace("'", "")  # Python 3.13 quotes no choices
