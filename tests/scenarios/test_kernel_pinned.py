"""`kernel_pin`: what forwards in the kernel outlives a process that is killed, and the next one takes it over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.scenarios.test_kernel_life import busy, expect_all, sixty
from tests.scenarios.test_kernel_listener import World, both, world
from tests.scenarios.test_upgrade import gone, upgraded
from tests.support.bpffs import bpffs
from tests.support.namespaces import BACKEND, Hosts
from tests.support.programs import L4lb, l4lb, require
from tests.support.slow import first_and_slow
from tests.support.users import OTHER_USER, directory_of_all, interpreter_of_all
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def pins() -> Iterator[Path]:
    """Nothing stays there."""
    with bpffs() as place:
        yield place


def within(hosts: Hosts) -> list[str]:
    """In the balancer's network, with the file systems of this test: `ip netns exec` has others."""
    return [require("nsenter"), f"--net=/run/netns/{hosts.balancer.name}"]


@contextlib.contextmanager
def pinned(hosts: Hosts, directory: Path, user: str = "") -> Iterator[World]:
    with world(hosts, directory, user=user, more="kernel_pin = true", within=within(hosts)) as made:
        yield made


@contextlib.contextmanager
def next_one(made: World, hosts: Hosts, user: str = "") -> Iterator[L4lb]:
    """Started as before."""
    command = [*within(hosts), *(interpreter_of_all() if user else ())]
    with l4lb("serve", "-c", str(made.file), "--admin", made.admin, within=command) as process:
        made.process = process
        assert wait_until(lambda: process.log.count("backend up") >= 5, 30), process.log
        yield process


def kill(made: World) -> None:
    made.process.signal(signal.SIGKILL)
    made.process.wait()


def expect_nothing(pins: Path, hosts: Hosts) -> None:
    assert not [name for name in os.listdir(pins) if name.startswith("l4lb-")]
    assert "prog" not in hosts.balancer.run("ip", "-d", "link", "show")


@pytest.mark.parametrize("user", first_and_slow(OTHER_USER, ""))
def test_a_process_that_is_killed_is_missed_by_nobody(user: str, hosts: Hosts, pins: Path) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(directory_of_all())
        if user:
            shutil.chown(directory, user)
        made = stack.enter_context(pinned(hosts, directory, user))
        running = stack.enter_context(busy(hosts.client))
        found = sixty(made)
        for _ in range(2):
            kill(made)
            expect_all(made, found)
            assert made.ask(f"4-new-{_}") in ("8001", "8002")
            before = made.process
            process = stack.enter_context(next_one(made, hosts, user))
            assert process is not before
            expect_all(made, found)
            assert wait_until(lambda: made.listener("web6")["sessions_active"] == 20, 30), process.log
        sessions = running.end()
        assert made.listener("web")["sessions_total"] == 40 + 2 + sessions
        made.command("backend", "drain", "web", f"{BACKEND[4]}:8002")
        assert {made.ask(f"new-{number}") for number in range(20)} == {"8001"}
        expect_all(made, found)
        made.process.signal(signal.SIGTERM)
        assert made.process.wait() == 0
        assert made.ask("after") == "ConnectionRefusedError"
        expect_nothing(pins, hosts)


def test_an_upgrade_and_then_a_kill(hosts: Hosts, tmp_path: Path, pins: Path) -> None:
    with pinned(hosts, tmp_path) as made, contextlib.ExitStack() as stack:
        found = sixty(made)
        new = upgraded(made.process, made.process.process.pid, made.admin)
        expect_all(made, found)
        os.kill(new, signal.SIGKILL)
        assert wait_until(lambda: gone(new))
        expect_all(made, found)
        stack.enter_context(next_one(made, hosts))
        expect_all(made, found)
        both(made, start=100)
        made.process.signal(signal.SIGTERM)
        assert made.process.wait() == 0
        expect_nothing(pins, hosts)


def test_a_second_one_with_the_same_file_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    with pinned(hosts, tmp_path) as made:
        with l4lb("serve", "-c", str(made.file), "--admin", "off", within=within(hosts)) as process:
            assert process.wait() == 2
            assert "global.kernel_pin: cannot be had: another l4lb with this configuration forwards" in process.log
        both(made)
        made.process.signal(signal.SIGTERM)
        assert made.process.wait() == 0


@pytest.mark.parametrize("kept", [True, False])
def test_the_next_one_does_not_pin(kept: bool, hosts: Hosts, tmp_path: Path, pins: Path) -> None:
    """With listeners in the kernel flows go on; without, nothing forwards any more."""
    with pinned(hosts, tmp_path) as made, contextlib.ExitStack() as stack:
        found, text = sixty(made), made.file.read_text().replace("kernel_pin = true", "")
        kill(made)
        if kept:
            made.file.write_text(text)
            stack.enter_context(next_one(made, hosts))
            expect_all(made, found)
            assert not [name for name in os.listdir(pins) if name.startswith("l4lb-")]
            kill(made)
        else:
            start = text.index("[listeners.proxied]")
            made.file.write_text(text[: text.index("[listeners.web]")] + text[start:])
            arguments = ("serve", "-c", str(made.file), "--admin", made.admin)
            process = stack.enter_context(l4lb(*arguments, within=within(hosts)))
            process.wait_for("backend up pool=proxied")
            assert made.ask("proxied", port=81) == "8001"
        assert made.ask("refused") == "ConnectionRefusedError"
        expect_nothing(pins, hosts)


def test_without_a_file_system_for_it(hosts: Hosts, tmp_path: Path) -> None:
    made = World(hosts, None, None, tmp_path / "lb.toml")  # type: ignore[arg-type]
    made.write("auto")
    made.file.write_text(made.file.read_text().replace("[global]", "[global]\nkernel_pin = true"))
    with l4lb("serve", "-c", str(made.file), "--admin", "off", network=hosts.balancer.name) as process:
        assert process.wait() == 2
        assert "global.kernel_pin: cannot be had: no file system for it is mounted: mount -t bpf" in process.log


def test_a_service_that_pins_nothing_needs_no_access_to_it(hosts: Hosts, pins: Path) -> None:
    """As the unit runs one: a user with capabilities, and that file system for root alone, as systemd mounts it."""
    rights = "+net_bind_service,+net_admin,+bpf,+perfmon"
    identity = [f"--reuid={OTHER_USER}", "--regid=nogroup", "--clear-groups"]
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(directory_of_all())
        shutil.chown(directory, OTHER_USER)
        stack.callback(pins.chmod, pins.stat().st_mode & 0o7777)
        pins.chmod(0o700)
        command = [require("setpriv"), *identity, f"--inh-caps={rights}", f"--ambient-caps={rights}"]
        command = [*within(hosts), *interpreter_of_all(), *command]
        both(stack.enter_context(world(hosts, directory, within=command)))
