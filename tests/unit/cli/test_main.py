"""What the program itself adds around its commands: each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from l4lb.cli.main import COMMANDS


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def failing(error: str) -> subprocess.CompletedProcess[str]:
    """The program, with a command that raises `error`."""
    raising = f"def fail(): raise {error}\nl4lb.cli.main.main = fail\n"
    return run(f"import l4lb.cli.main\n{raising}from l4lb.__main__ import main\nmain()")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("MemoryError", "out of memory"),
        ("SystemError('error return without exception set')", "out of memory"),
        ("SystemError('<built-in function exec> returned NULL without setting an exception')", "out of memory"),
        ("ImportError('/x/y.so: cannot map zero-fill pages', path='/x/y.so')", "/x/y.so: cannot map zero-fill pages"),
    ],
)
def test_lack_of_memory_is_one_line(error: str, line: str) -> None:
    done = failing(error)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"l4lb: {line}\n")


@pytest.mark.parametrize("error", ["SystemError('bad argument to internal function')", "ImportError('no name x')"])
def test_a_mistake_of_ours_keeps_its_traceback(error: str) -> None:
    done = failing(error)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_the_list_of_commands_imports_none() -> None:
    done = run(
        "import sys\nfrom l4lb.cli.main import run\nsys.argv = ['l4lb', '--help']\nrun()\n"
        "print([name for name in sys.modules if name.startswith('l4lb.cli.')])"
    )
    shared = [f"l4lb.cli.shared{name}" for name in ("", ".groups", ".shells")]
    assert done.stdout.splitlines()[-1] == str([*shared, "l4lb.cli.main"]), done
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_aiohttp_is_loaded_with_the_admin_api_alone() -> None:
    done = run("import sys\nimport l4lb.cli.serve\nprint('aiohttp' in sys.modules)")
    assert done.stdout.splitlines() == ["False"], done


GARBAGE = "import gc\nfrom l4lb.cli.main import cli\n{before}cli.get_command(None, 'status')\n" + (
    "print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
)


def test_garbage_is_collected_again_once_a_command_runs() -> None:
    assert run(GARBAGE.format(before="gc.disable()\n")).stdout == "True True\n"


def test_who_asks_for_a_command_in_a_process_of_their_own_keeps_their_garbage_collector() -> None:
    assert run(GARBAGE.format(before="")).stdout == "True False\n"


def test_every_command_has_the_summary_of_the_list() -> None:
    show = "for name in COMMANDS: print(cli.get_command(None, name).get_short_help_str(100))"
    done = run(f"from l4lb.cli.main import COMMANDS, cli\n{show}")
    assert done.stdout.splitlines() == [summary for _, summary in COMMANDS.values()], done


def l4lb(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "l4lb", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("group", [(), ("backend",), ("fleet", "config"), ("announce",)])
def test_a_group_alone_prints_its_help(group: tuple[str, ...]) -> None:
    alone, helped = l4lb(*group), l4lb(*group, "--help")
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, helped.stdout, "")
    assert helped.returncode == 0
    assert helped.stdout.startswith("Usage: l4lb")
    assert "..." not in helped.stdout.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("statsu",), 'l4lb: no command "statsu" (did you mean "status"?)'),
        (("backend", "drian", "web"), 'l4lb: no command "drian" (did you mean "drain"?)'),
        (("fleet", "config", "putt"), 'l4lb: no command "putt" (did you mean "put"?)'),
        (("pool", "xyz"), 'l4lb: no command "xyz" (known: list)'),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(arguments: tuple[str, ...], line: str) -> None:
    done = l4lb(*arguments)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (2, "", line)
