"""Completion as users have it: real shells, the script that `l4lb completion` prints, a running instance."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.peers import connect, echo, serving
from tests.support.programs import l4lb, require, without_preload
from tests.support.terminal import terminal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

FILE = """
[admin]
bind = "unix:{directory}/admin.sock"
[listeners]
a = {{ bind = "127.0.0.1:0", pool = "web" }}
b = {{ bind = "127.0.0.1:0", pool = "web-two" }}
c = {{ bind = "127.0.0.1:0", pool = "mail" }}
[pools]
web = {{ backends = ["{backend}"] }}
web-two = {{ backends = ["{backend}"] }}
mail = {{ backends = ["{backend}"] }}
"""
BASH = ("bash", "--norc", "--noprofile", "-i")


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("running")
    with serving(echo) as one:
        (directory / "lb.toml").write_text(FILE.format(directory=directory, backend=one.address))
        with l4lb("serve", "-c", str(directory / "lb.toml"), admin=True) as process:
            process.wait_for("admin listening")
            yield f"unix:{directory}/admin.sock"


def environment(admin: str) -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**without_preload(), "PATH": programs, "L4LB_ADMIN": admin, "HOME": "/nonexistent"}


def by_bash(line: str, admin: str, tries: int = 10) -> list[str]:
    """What bash offers for the last word of `line`. An instance that takes longer than a second completes nothing, so
    that it is asked again, `tries` times in all."""
    offered: list[str] = []
    while tries and not offered:
        offered, tries = offered_by_bash(line, admin), tries - 1
    return offered


def offered_by_bash(line: str, admin: str) -> list[str]:
    """By the function that bash has for l4lb, called as bash does."""
    script = """
        eval "$(l4lb completion bash)"
        complete -p l4lb | grep -q _l4lb_completion || exit 3
        COMP_LINE=$1 COMP_POINT=${#1}
        compopt() { :; }
        _l4lb_completion l4lb "$2"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        [require("bash"), "--norc", "-c", script, "bash", line, re.split("[ :=]", line)[-1]],
        env=environment(admin),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


def test_bash_completes_commands_options_and_pools(admin: str) -> None:
    assert {"serve", "status", "explain", "completion"} <= set(by_bash("l4lb ", admin))
    assert by_bash("l4lb stat", admin) == ["status"]
    assert by_bash("l4lb status --tok", admin) == ["--token-file"]
    assert by_bash("l4lb completion ", admin) == ["bash", "zsh", "fish"]
    assert by_bash("l4lb status ", admin) == ["web", "web-two", "mail"]
    assert by_bash("l4lb status web", admin) == ["web", "web-two"]
    assert by_bash("l4lb explain m", admin) == ["mail"]
    assert by_bash("l4lb health --pool we", admin) == ["web", "web-two"]
    assert by_bash("l4lb announce b", admin) == ["bird"]
    assert by_bash("l4lb announce bird --listener ", admin) == ["a", "b", "c"]


def test_bash_completes_every_argument_that_the_instance_knows(admin: str) -> None:
    (backend,) = by_bash("l4lb backend drain web ", admin)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", backend)
    assert by_bash(f"l4lb backend drain web {backend} ", admin, tries=1) == [], "it is there already"
    assert by_bash("l4lb backend list we", admin) == ["web", "web-two"]
    assert by_bash("l4lb session list --pool ma", admin) == ["mail"]
    assert by_bash("l4lb session kill --backend 127", admin) == [backend]
    assert by_bash("l4lb session list --listener ", admin) == ["a", "b", "c"]
    assert by_bash("l4lb listener drain ", admin) == ["a", "b", "c"]
    assert by_bash("l4lb drain --listener ", admin) == ["a", "b", "c"]
    assert by_bash("l4lb events --pool web-", admin) == ["web-two"]
    assert by_bash("l4lb explain b", admin) == ["b"]
    assert by_bash("l4lb config show pools.m", admin) == ["pools.mail"]
    assert by_bash("l4lb serve --policy ma", admin) == ["maglev"]
    with connect(listening(admin, "a")):
        (session,) = by_bash("l4lb session kill ", admin)
    assert session.isdecimal()
    with Client(admin) as client:
        client.bans.add("192.0.2.0/24")
    assert by_bash("l4lb ban remove 192", admin) == ["192.0.2.0/24"]


def listening(admin: str, name: str) -> str:
    with Client(admin) as client:
        return client.listener_addresses(name)[0]


def test_the_instance_on_the_line_is_asked(admin: str) -> None:
    assert by_bash(f"l4lb status --admin {admin} we", "unix:/nowhere") == ["web", "web-two"]


@pytest.mark.parametrize("nowhere", ["unix:/nowhere/admin.sock", "127.0.0.1:1", "not an address"])
def test_no_instance_completes_nothing_and_says_nothing(nowhere: str) -> None:
    assert by_bash("l4lb status ", nowhere, tries=1) == []


def test_bash_completes_words_that_it_takes_apart(admin: str) -> None:
    """At colons and equals signs: it keeps what is before the last one, and takes an answer for the rest."""
    (backend,) = by_bash("l4lb backend drain web ", admin)
    port = backend.partition(":")[2]
    assert by_bash("l4lb backend drain web 127.0.0.1:", admin) == [port]
    assert by_bash(f"l4lb backend drain web 127.0.0.1:{port[:2]}", admin) == [port]
    assert by_bash(f"l4lb session kill --backend=127.0.0.1:{port[:2]}", admin) == [port]
    assert by_bash("l4lb session list --pool=", admin) == ["web", "web-two", "mail"]
    assert by_bash("l4lb session list --pool=ma", admin) == ["mail"]


def test_bash_completes_an_address_that_is_typed(admin: str) -> None:
    """In a terminal, where bash itself takes the line apart and puts the answer in."""
    with terminal(["env", *(f"{name}={value}" for name, value in environment(admin).items()), *BASH], 160) as shown:
        shown.press('PS1=; eval "$(l4lb completion bash)" && echo re""ady', "Enter")
        shown.wait_for("ready")
        (backend,) = by_bash("l4lb backend drain web ", admin)
        typed = f"l4lb backend drain web {backend}"
        shown.press(typed[:-2])

        def completed() -> bool:
            shown.press("Tab")
            return wait_until(lambda: typed in shown.screen, 3)

        assert any(completed() for _ in range(10)), shown.screen


def test_fish_completes(admin: str) -> None:
    script = 'l4lb completion fish | source; complete --do-complete "l4lb status w"; complete --do-complete "l4lb exp"'

    def offered() -> list[str]:
        done = subprocess.run(
            [require("fish"), "--no-config", "-c", script],
            env={**environment(admin), "HOME": os.environ.get("TMPDIR", "/tmp")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert wait_until(lambda: offered() == ["web", "web-two", "explain"]), offered()


def test_zsh_completes(admin: str) -> None:
    """zsh completes only where someone types: in a terminal of the test's."""
    script = """
        zmodload zsh/zpty
        zpty -b typed 'zsh -f -i'
        zpty -w typed 'PS1=; autoload -Uz compinit && compinit -u -D && eval "$(l4lb completion zsh)" && print re""ady'
        for _ in {1..300}; do
            zpty -r -t typed said && print -r -- $said
            [[ $said == *ready* ]] && break
            sleep 0.1
        done
        zpty -w -n typed $'l4lb explain m\\t'
        all=
        for try in {1..300}; do
            zpty -r -t typed said && all+=$said
            [[ $all == *'explain mail'* ]] && { print found; break }
            (( try % 50 )) || zpty -w -n typed $'\t'
            sleep 0.1
        done
        print -r -- $all
        zpty -d typed
    """
    done = subprocess.run(
        [require("zsh"), "-f", "-c", script],
        env={**environment(admin), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "found" in done.stdout.splitlines(), done
