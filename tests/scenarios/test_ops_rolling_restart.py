"""examples/ops/rolling_restart.py, run as an operator does, against nginx under traffic."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operating import Balancer, Site, Visitors, balancer, hold_at_each, run_script, script, site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, 3) as made:
        yield made


@pytest.fixture
def lb(web: Site, tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path, {"web": web.addresses}) as made:
        yield made


def restart(lb: Balancer, command: str, *options: str) -> tuple[int, str]:
    return run_script("rolling_restart.py", *options, "web", "--", *command.split(), balancer=lb)


def test_each_is_restarted_and_no_client_notices(web: Site, lb: Balancer) -> None:
    before = [web.pid(address) for address in web.addresses]
    with Visitors(lb.address) as visitors:
        visitors.wait_for_more()
        code, said = restart(lb, web.command("restart"), "--min-usable", "2")
        visitors.wait_for_more()
    assert (code, visitors.failures) == (0, []), said
    assert "3 backends restarted" in said
    assert not set(before) & {web.pid(address) for address in web.addresses}
    assert set(lb.admin_states().values()) == {"ready"}


def test_one_that_does_not_come_back_ends_it_and_the_others_are_left_alone(web: Site, lb: Balancer) -> None:
    first, second, third = web.addresses
    web.crashes_when_started(second)
    untouched = web.pid(third)
    with Visitors(lb.address) as visitors:
        one_by_one = ("--only", second, "--only", third)
        code, said = restart(lb, web.command("restart"), *one_by_one, "--up-timeout", "1s")
        visitors.wait_for_more()
    assert (code, visitors.failures) == (1, []), said
    assert f"{second}: not up 1 s after its restart" in said
    assert "; it stays drained" in said
    assert f"to go on: rolling_restart.py --only {second} --only {third} web" in said
    assert lb.admin_states() == {first: "ready", second: "drain", third: "ready"}
    assert web.pid(third) == untouched
    (web.directory / f"{second.rpartition(':')[2]}.crashes").unlink()
    code, said = restart(lb, web.command("start"), "--only", second)
    assert code == 0, said
    assert lb.admin_states()[second] == "ready"


def test_a_command_that_fails_is_shown_with_what_it_said(web: Site, lb: Balancer) -> None:
    (web.directory / "fails").write_text("echo no such service: $1 >&2; exit 5\n")
    code, said = restart(lb, f"/bin/sh {web.directory}/fails {{address}}", "--only", web.addresses[0])
    assert code == 1
    assert f"exit code 5: no such service: {web.addresses[0]}; it stays drained" in said


def test_two_at_once_never_leave_fewer_than_wanted(web: Site, lb: Balancer) -> None:
    code, said = restart(lb, web.command("restart"), "--at-once", "2", "--min-usable", "1")
    assert code == 0, said
    assert set(lb.admin_states().values()) == {"ready"}
    code, said = restart(lb, web.command("restart"), "--min-usable", "3", "--up-timeout", "100ms")
    assert code == 1
    assert "not drained: 2 usable backends would be left, fewer than --min-usable 3" in said
    assert set(lb.admin_states().values()) == {"ready"}


def test_sessions_that_do_not_end_stop_it_before_the_restart(web: Site, lb: Balancer) -> None:
    before = web.pid(web.addresses[0])
    with contextlib.ExitStack() as stack:
        hold_at_each(stack, lb)
        code, said = restart(lb, web.command("restart"), "--drain-timeout", "200ms")
        assert (code, web.pid(web.addresses[0])) == (1, before)
        assert "sessions left after 0.2 s: " in said
        assert "; not restarted, and as it was" in said
        assert set(lb.admin_states().values()) == {"ready"}
        code, said = restart(lb, web.command("restart"), "--drain-timeout", "200ms", "--end-sessions")
        assert code == 0, said


def test_ctrl_c_finishes_the_one_that_is_restarted_and_begins_no_other(web: Site, lb: Balancer) -> None:
    first, second, third = web.addresses
    gate = web.directory / "gate"
    command = f"while [ ! -e {gate} ]; do sleep 0.02; done; exec {web.command('restart')}"
    with script("rolling_restart.py", "web", "--", "/bin/sh", "-c", command, balancer=lb) as running:
        running.wait_for(f"{first}: restart")
        running.signal(signal.SIGINT)
        gate.touch()
        assert running.wait() == 130
        assert f"{first}: up, and back" in running.output
        assert (
            f"interrupted: 1 restarted; to go on: rolling_restart.py --only {second} --only {third}" in running.output
        )
    assert set(lb.admin_states().values()) == {"ready"}


def test_a_second_ctrl_c_kills_the_command(web: Site, lb: Balancer) -> None:
    first, *others = web.addresses
    with script("rolling_restart.py", "web", "--", "sleep", "600", balancer=lb) as running:
        running.wait_for(f"{first}: restart")
        running.signal(signal.SIGINT)
        running.wait_for("once more to stop at once")
        assert running.interrupt() == 130
        assert f"{first}: sleep 600: killed; it stays drained" in running.output
    assert lb.admin_states() == {first: "drain", **dict.fromkeys(others, "ready")}


def test_ctrl_c_while_it_drains_takes_the_backend_back(web: Site, lb: Balancer) -> None:
    before = [web.pid(address) for address in web.addresses]
    with contextlib.ExitStack() as stack:
        hold_at_each(stack, lb)
        running = stack.enter_context(
            script("rolling_restart.py", "web", "--", *web.command("restart").split(), balancer=lb)
        )
        running.wait_for(f"{web.addresses[0]}: drain")
        assert wait_until(lambda: "drain" in lb.admin_states().values())
        assert running.interrupt() == 130
    assert set(lb.admin_states().values()) == {"ready"}
    assert [web.pid(address) for address in web.addresses] == before


def test_what_cannot_work_is_said_before_anything_is_touched(web: Site, lb: Balancer, tmp_path: Path) -> None:
    assert run_script("rolling_restart.py", "web", balancer=lb)[0] == 2
    code, said = run_script("rolling_restart.py", "wbe", "--", "true", balancer=lb)
    assert (code, said) == (1, 'error: no pool "wbe" (did you mean "web"?)\n')
    code, said = restart(lb, "true", "--drain-timeout", "soon")
    assert code == 2
    assert '"soon": expected a duration such as 500ms, 30s or 5m' in said
    lb.file.write_text(lb.file.read_text().replace('type = "http"', 'type = "none"'))
    lb.client.reload()
    code, said = restart(lb, "true")
    assert code == 1
    assert 'pool "web" has no health checks' in said
