"""examples/ops/chaos.py, run as an operator does, against nginx that is killed, hung, drained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operating import Balancer, Site, balancer, run_script, script, site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external
BANNED = "192.0.2.0/24"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, 3) as made:
        yield made


@pytest.fixture
def lb(web: Site, tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path, {"web": web.addresses}) as made:
        yield made


def kills(web: Site) -> tuple[str, ...]:
    return ("--kill", web.command("kill"), "--revive", web.command("start"))


def hangs(web: Site) -> tuple[str, ...]:
    return ("--hang", web.command("hang"), "--wake", web.command("wake"))


def all_is_back(web: Site, lb: Balancer) -> bool:
    states = set(lb.admin_states().values())
    running = all(web.is_running(address) for address in web.addresses)
    return (
        states == {"ready"} and running and lb.client.pools["web"].status["usable"] == 3 and not lb.client.bans.list()
    )


def test_every_trouble_until_ctrl_c_and_all_is_put_back(web: Site, lb: Balancer) -> None:
    options = ("--seed", "5", "--lasts", "200ms", "--within", "30s", "--budget", "0.2", "--ban", BANNED)
    with script("chaos.py", "web", *options, *kills(web), *hangs(web), balancer=lb) as running:
        for kind in ("kill", "hang", "drain", f"ban of {BANNED}"):
            running.wait_for(kind)
        assert running.interrupt() == 130
        said = running.output
    assert "seed 5, " in said
    assert "interrupted: everything is put back" in said
    assert all_is_back(web, lb)


def test_it_ends_well_within_the_budget_and_repeats_its_choices(web: Site, lb: Balancer) -> None:
    options = ("--seed", "7", "--for", "1s", "--lasts", "200ms", "--expect", "\\n", "--within", "30s")
    runs = []
    for _ in range(2):
        code, said = run_script("chaos.py", "web", *options, balancer=lb)
        assert code == 0, said
        assert ", failed: 0 (0.00%), budget: 0.10%" in said
        runs.append(said.splitlines()[0])
    assert runs[0] == runs[1]
    assert runs[0].startswith("drain 127.0.0.1:")
    assert all_is_back(web, lb)


def test_more_failures_than_the_budget(web: Site, lb: Balancer) -> None:
    """With all of them killed or hung for longer than clients wait, nobody answers."""
    for address in web.addresses[1:]:
        lb.client.pools["web"].remove(address)
    options = ("--no-drain", "--min-usable", "0", "--for", "1s", "--lasts", "1s", "--within", "2s")
    code, said = run_script("chaos.py", "web", *options, *kills(web), balancer=lb)
    assert code == 1
    assert "more than the budget of 0.10%" in said
    assert "problems: " in said
    assert "warnings of the instance: " in said
    assert "backend_down" in said
    assert web.is_running(web.addresses[0])
    assert wait_until(lambda: lb.client.pools["web"].status["usable"] == 1)


def test_what_cannot_be_put_back_is_said_and_ends_it(web: Site, lb: Balancer) -> None:
    options = ("--no-drain", "--seed", "1", "--lasts", "200ms", "--back-timeout", "500ms", "--budget", "1")
    code, said = run_script(
        "chaos.py", "web", *options, "--kill", web.command("kill"), "--revive", "false", balancer=lb
    )
    assert code == 1
    assert said.count("is not put back: false: exit code 1") == 1
    assert said.count("\nkill ") + said.startswith("kill ") == 1


def test_trouble_that_cannot_be_made_is_undone_as_well(web: Site, lb: Balancer, tmp_path: Path) -> None:
    revive = f"/bin/sh -c 'echo {{id}} >> {tmp_path}/revived'"
    code, said = run_script("chaos.py", "web", "--no-drain", "--kill", "false", "--revive", revive, "--lasts", "100ms",
                            balancer=lb)  # fmt: skip
    assert code == 1
    assert ": false: exit code 1" in said
    assert (tmp_path / "revived").read_text().strip() in web.addresses
    assert all_is_back(web, lb)


def test_the_last_usable_one_is_spared(web: Site, lb: Balancer) -> None:
    for address in web.addresses[1:]:
        lb.client.pools["web"][address].maint()
    code, said = run_script("chaos.py", "web", "--seed", "1", "--for", "1s", "--lasts", "100ms", balancer=lb)
    assert code == 0, said
    assert f"drain {web.addresses[0]}" not in said
    assert sorted(lb.admin_states().values()) == ["maint", "maint", "ready"]


def test_what_cannot_work_is_said_before_any_trouble(web: Site, lb: Balancer) -> None:
    for options, expected, message in (
        (["--no-drain"], 2, "--no-drain: expected another trouble"),
        (["--kill", "true"], 2, "--kill and --revive: expected both or none"),
        (["--kill", "'", "--revive", "true"], 2, "No closing quotation"),
        (["--target", "127.0.0.1:1"], 1, "already before any trouble: connection refused"),
        (["--target", "here"], 2, '"here": expected HOST:PORT'),
        (["--expect", "nobody says this"], 1, "already before any trouble: another answer than expected"),
    ):
        code, said = run_script("chaos.py", "web", *options, balancer=lb)
        assert code == expected, said
        assert message in said
    assert all_is_back(web, lb)
