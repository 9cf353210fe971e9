"""The file that keepalived tracks: what it says at each level, and what may be wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l4lb.cli.addresses.engine import EngineError
from l4lb.cli.addresses.engines.keepalived import Keepalived
from l4lb.cli.addresses.hysteresis import Level
from tests.support import forking


def test_a_node_is_fit_while_nothing_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "fit"
    engine = Keepalived(str(file))
    for level, said in (
        (Level.WITHDRAWN, "1\n"),
        (Level.NORMAL, "0\n"),
        (Level.DRAINING, "1\n"),
        (Level.NORMAL, "0\n"),
    ):
        engine.apply(level)
        assert file.read_text() == said
    assert os.listdir(tmp_path) == ["fit"]


def test_what_was_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "fit.new").write_text("a longer text")
    (tmp_path / "fit").symlink_to(tmp_path / "elsewhere")
    Keepalived(str(tmp_path / "fit")).apply(Level.NORMAL)
    assert (tmp_path / "fit").read_text() == "0\n"
    assert not (tmp_path / "elsewhere").exists()


def test_the_directory_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="/nowhere/fit: No such file or directory"):
        Keepalived(str(tmp_path / "nowhere/fit")).apply(Level.NORMAL)


def test_nothing_is_written_through_what_is_no_file(tmp_path: Path) -> None:
    engine = Keepalived(str(tmp_path / "fit"))
    new = tmp_path / "fit.new"
    os.mkfifo(new)
    with pytest.raises(EngineError, match="No such device or address"):  # ENXIO: nobody reads it
        engine.apply(Level.NORMAL)
    new.unlink()
    new.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="Too many levels of symbolic links"):
        engine.apply(Level.NORMAL)
    new.unlink()
    (tmp_path / "fit").mkdir()
    with pytest.raises(EngineError, match="Is a directory"):
        engine.apply(Level.NORMAL)


def test_only_withdraw(tmp_path: Path) -> None:
    file = tmp_path / "fit"
    file.write_text("0\n")
    assert forking.run("announce", "keepalived", "--track-file", str(file), "--withdraw").returncode == 0
    assert file.read_text() == "1\n"
    done = forking.run("announce", "keepalived", "--track-file", f"{tmp_path}/nowhere/fit", "--withdraw")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"l4lb announce: cannot be told to withdraw: {tmp_path}/nowhere/fit: No such file")


@pytest.mark.parametrize("path", ["fit", "", "./fit"])
def test_the_file_is_where_keepalived_looks_for_it(path: str) -> None:
    done = forking.run("announce", "keepalived", "--track-file", path)
    assert done.returncode == 2
    assert f'"{path}": expected an absolute path' in " ".join(done.stderr.split())
