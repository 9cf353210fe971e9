"""A pool's backends from what a program prints: real programs, that fail in every way that programs have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.discovering import discovering
from tests.support.waiting import wait_until

A, B = "127.0.0.1:1", "127.0.0.1:2"


def sh(script: str, **options: Any) -> dict[str, Any]:
    return {"type": "exec", "command": ["/bin/sh", "-c", script], "interval": "50ms", **options}


def alive(pid: int) -> bool:
    """A process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_it_prints_is_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    file.write_text(A)
    with discovering(sh(f"cat {file}")) as found:
        assert found.backends == [A]
        version, runs = found.version, found.said["answers"]
        assert wait_until(lambda: found.said["answers"] > runs + 3)
        assert found.version == version
        file.write_text(f"{A}\n{B} weight=3\n")
        found.wait_for(A, B)
        assert found.balancer.pools["web"][B].weight == 3


@pytest.mark.parametrize("format_", ["json", "toml"])
def test_formats_and_what_it_is_told(format_: str) -> None:
    tags = '{"pool": "\'$L4LB_POOL\'", "timeout": "\'$L4LB_TIMEOUT\'"}'
    said = f'[{{"address": "{A}", "tags": {tags}}}]'
    if format_ == "toml":
        said = f"backends = {said}".replace(": ", " = ").replace('{"', '{ "')
    with discovering(sh(f"echo '{said}'", format=format_, timeout="7s")) as found:
        assert found.said["error"] == ""
        assert found.balancer.config.pools["web"].backends[0].tags == {"pool": "web", "timeout": "7"}


FAILING = [
    ("echo said; echo no database >&2; exit 3", "/bin/sh: exit code 3: no database"),
    (f"echo {B}; kill -9 $$", "/bin/sh: killed by SIGKILL"),
    ("echo 10.0.0.1", '/bin/sh: line 1: address: "10.0.0.1": expected "host:port"'),
    ("printf '\\377'", "/bin/sh: printed what is not UTF-8 (byte 0)"),
    ("head -c 5000000 /dev/zero", "/bin/sh: printed more than 4 MiB"),
]


@pytest.mark.parametrize(("script", "reason"), FAILING)
def test_one_that_fails_takes_nothing_away(tmp_path: Path, script: str, reason: str) -> None:
    failing = tmp_path / "failing"
    with discovering(sh(f"if [ -e {failing} ]; then {script}; else echo {A}; fi")) as found:
        failing.touch()
        assert wait_until(lambda: reason in found.said["error"]), found.said
        assert found.backends == [A]
        assert len(found.of("discovery_failed")) == 1
        failing.unlink()
        assert wait_until(lambda: found.of("discovery_recovered"))
        assert found.said["error"] == ""


def test_one_that_cannot_be_started() -> None:
    with discovering({"type": "exec", "command": ["/nowhere/program"]}) as found:
        assert found.said["error"] == "/nowhere/program: No such file or directory"
        assert found.backends == []


def test_one_that_is_late_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 1000 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    with discovering(sh(script, timeout="300ms", interval="1h")) as found:
        assert wait_until(lambda: "killed, it did not end within 0.3 s" in found.said["error"])
        assert wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_reload_and_the_end_kill_one_that_still_runs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000"
    with discovering(sh(script, timeout="1h")) as found:
        assert pid.exists(), "the start waits for its answer, but not for long"
        first = int(pid.read_text())
        config = found.balancer.config
        pool = config.pools["web"].model_copy(update={"discovery": None})
        pid.unlink()
        found.balancer.reload(config.model_copy(update={"pools": {"web": pool}}))
        assert wait_until(lambda: not alive(first))
        found.balancer.reload(config)
        assert wait_until(pid.exists)
        second = int(pid.read_text())
        assert alive(second)
    assert wait_until(lambda: not alive(second))
