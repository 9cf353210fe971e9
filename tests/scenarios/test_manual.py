"""`make man`: complete, and nothing in the pages that man(1), groff or mandoc stumbles over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from l4lb.cli.main import cli
from l4lb.cli.serve import SIGNALS
from tests.support.programs import require, run, without_preload

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("man")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    subprocess.run([sys.executable, "contrib/manual.py", str(directory)], env=environment, check=True)
    return sorted(directory.iterdir())


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from commands(found, f"{name}-{below}")


def rendered(page: Path) -> str:
    """As text, without what makes it bold; fails for a single warning."""
    command = [require("man"), "--warnings=all", "--local-file", "-E", "ascii", str(page)]
    environment = {**without_preload(), "MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def test_there_is_one_for_every_command_and_for_the_configuration(pages: list[Path]) -> None:
    assert [page.name for page in pages] == sorted([*(f"{name}.1" for name, _ in commands(cli, "l4lb")), "lb.toml.5"])


def test_they_render_without_a_warning_and_say_what_the_commands_say(pages: list[Path]) -> None:
    by_name = dict(commands(cli, "l4lb"))
    for page in pages:
        text = rendered(page)
        assert "1970-01-02" in text, "the date is SOURCE_DATE_EPOCH's"
        for param in by_name[page.stem].params if page.suffix == ".1" else []:
            assert all(option in text for option in param.opts if option.startswith("-")), (page, param)
        assert page.suffix != ".1" or "-h, --help" in text


def test_what_is_said_of_signals_and_files_is_all(pages: list[Path]) -> None:
    """Every signal that `l4lb serve` heeds, and every path of the unit."""
    (page,) = (page for page in pages if page.name == "l4lb.1")
    heeded = {signal.Signals(number).name for number in SIGNALS}
    assert heeded >= {"SIGHUP", "SIGUSR1"}
    named = set(re.findall(r" (/\S+)", Path("contrib/systemd/l4lb.service").read_text().partition("[Unit]")[2]))
    assert {"/etc/l4lb/lb.toml"} == named
    for word in heeded | named:
        assert word in rendered(page), word


def test_mandoc_has_nothing_to_say(pages: list[Path]) -> None:
    done = subprocess.run(
        [require("mandoc"), "-T", "lint", *pages], env=without_preload(), capture_output=True, text=True
    )
    assert done.stdout == ""


def test_the_configurations_page_has_every_option_of_the_example(pages: list[Path]) -> None:
    text = rendered(pages[-1])
    assert 'workers = "auto" one per usable CPU' in text
    for line in Path("lb.toml.example").read_text().splitlines():
        if (key := line.lstrip("#").split(" = ")[0]).isidentifier() and " = " in line:
            assert f"{key} = " in text


def test_whatis_finds_their_names(pages: list[Path]) -> None:
    for page in pages:
        said = run("lexgrog", str(page))
        assert said.startswith(f'{page}: "{page.stem} - '), said
