"""The table of keys."""

from __future__ import annotations

from pathlib import Path

from l4lb.cli.top.keys import BINDINGS, available, bound
from l4lb.cli.top.ui import PANES, Ui


def test_no_key_means_two_things_in_a_list() -> None:
    for pane in PANES:
        keys = [key for one in available(pane.name, False) for key in one.keys]
        assert len(keys) == len(set(keys)), pane.name


def test_each_does_something_somewhere() -> None:
    names = {pane.name for pane in PANES}
    for one in BINDINGS:
        assert hasattr(Ui, f"_{one.action}")
        assert set(one.panes) <= names


def test_the_documentation_has_each() -> None:
    page = Path("docs/top.md").read_text()
    for one in BINDINGS:
        for shown in one.shown.split():
            name = shown.replace("^", "Ctrl-")
            assert (name if len(name) > 1 or name in "↑↓" else f"`{name}`") in page, shown


def test_who_only_reads_has_no_key_that_changes_something() -> None:
    for pane in PANES:
        assert not any(one.changes for one in available(pane.name, True))
    assert bound("d", "pools", False)
    assert not bound("d", "pools", True)
