"""What packages put below share/: shells and man find their files there, and logrotate takes the rules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require, run, without_preload

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefix") / "share"
    subprocess.run([sys.executable, "contrib/share.py", str(directory)], check=True)
    return directory


def said(share: Path, *command: str) -> str:
    """By a shell that looks for completions of programs below `share` alone, and has `l4lb`."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = {"PATH": programs, "XDG_DATA_DIRS": str(share), "HOME": str(share.parent)}
    done = subprocess.run(
        [require(command[0]), *command[1:]], env=without_preload() | told, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_bash_completes_by_the_file_of_the_package(share: Path) -> None:
    """As package bash-completion does: the file that is named like the command is read once it is asked for."""
    script = f"""
        . {share}/bash-completion/completions/l4lb
        complete -p l4lb | grep -q _l4lb_completion || exit 3
        COMP_LINE="l4lb stat" COMP_POINT=9
        _l4lb_completion l4lb stat
        echo "${{COMPREPLY[@]}}"
    """
    assert said(share, "bash", "--norc", "-c", script) == "status\n"


def test_zsh_finds_the_function_of_the_package(share: Path) -> None:
    script = (
        f"fpath=({share}/zsh/site-functions $fpath); autoload -Uz compinit && compinit -u -D && print $_comps[l4lb]"
    )
    assert said(share, "zsh", "-f", "-c", script) == "_l4lb\n"


def test_fish_completes_by_the_file_of_the_package(share: Path) -> None:
    offered = said(share, "fish", "-c", 'complete --do-complete "l4lb stat"')
    assert offered.split("\t")[0] == "status"


def test_man_finds_the_pages(share: Path) -> None:
    for page, section in (("l4lb", 1), ("l4lb-backend-add", 1), ("lb.toml", 5)):
        found = run("man", "--path", f"--manpath={share}/man", page)
        assert found == f"{share}/man/man{section}/{page}.{section}\n"


def test_logrotate_takes_the_rules(tmp_path: Path) -> None:
    """How l4lb opens its logs again: tests/scenarios/test_access_log.py."""
    rules = tmp_path / "l4lb"
    rules.write_text(Path("contrib/logrotate/l4lb").read_text())
    rules.chmod(0o644)  # it wants nobody else to write there
    done = subprocess.run([require("logrotate"), "--debug", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pattern = re.search(r"rotating pattern: /var/log/l4lb/\*\.log +after 1 days .*\(14 rotations\)", done.stderr)
    assert pattern, done.stderr
    assert "error:" not in done.stderr
