"""contrib/apparmor allows what l4lb does that forwards in the kernel, and pins that: start, traffic, upgrade, end."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.scenarios.test_apparmor import CALLS, PROFILE, expect_all_allowed, expect_sockets_allowed, places
from tests.scenarios.test_kernel_listener import both, world
from tests.scenarios.test_kernel_pinned import within
from tests.scenarios.test_upgrade import end, gone, upgraded
from tests.support.apparmor import AS_A_SERVICE, read_profile
from tests.support.bpffs import bpffs
from tests.support.namespaces import Hosts
from tests.support.programs import require
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external


def test_it_allows_what_forwarding_in_the_kernel_uses(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # as in the package, where the service may not write it
    traced, at = tmp_path / "calls", tmp_path / "etc"
    at.mkdir()
    tracer = [require("strace"), "-D", "-f", "-y", "-qq", "-s", "200", "--signal=none", "-e", f"trace={CALLS}"]
    with contextlib.ExitStack() as stack:
        pins = stack.enter_context(bpffs())
        command = [*AS_A_SERVICE, *within(hosts), *tracer, "-o", str(traced)]
        made = stack.enter_context(world(hosts, at, more="kernel_pin = true", within=command))
        both(made)
        new = upgraded(made.process, made.process.process.pid, made.admin)
        stack.callback(end, new)
        os.kill(new, signal.SIGTERM)
        assert wait_until(lambda: gone(new), 60)
    calls, profile = traced.read_text(errors="replace"), read_profile(PROFILE)
    calls = calls.replace(f"{at}/admin.sock", "/run/l4lb/admin.sock")  # where the service has it
    used = expect_all_allowed(profile, calls, places(tmp_path))
    expect_sockets_allowed(profile, calls)
    assert any(path.startswith(f"{pins}/l4lb-") for path in used)
