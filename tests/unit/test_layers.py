"""Imports point one way, from room to room and from file to file, in Python and in the native code; no room is crowded.
(What a layer of the Python code may import is import-linter's to say, in pyproject.toml.)"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path("l4lb")
DATAPLANE = PACKAGE / "_dataplane"
# From the top down: a room cimports from rooms below its own.
ROOMS = [
    "worker",
    "passes",
    "tcp",
    "udp",
    "session",
    "admission",
    "proxy_protocol",
    "balancing",
    "tls",
    "tables",
    "resources",
    "base",
]
MODULES_MAX = 16  # of a folder
LINES_MAX = 400


def native_files() -> list[Path]:
    return [path for path in DATAPLANE.rglob("*.pxd") if path.name != "__init__.pxd"]


def native_graph() -> dict[str, set[str]]:
    """Which header cimports which, as room/name."""
    graph = {}
    for path in native_files():
        found = re.findall(r"^from l4lb\._dataplane\.(\w+)\.(\w+) cimport", path.read_text(), re.MULTILINE)
        graph[f"{path.parent.name}/{path.stem}"] = {"/".join(one) for one in found}
    return graph


def python_graph() -> dict[str, set[str]]:
    """Which module imports which, wherever in it the import stands."""
    paths = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        if path.suffix == ".pyx":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("l4lb"):
                targets = {f"{node.module}.{one.name}" for one in node.names}
                graph[name] |= {target if target in modules else node.module for target in targets} & modules.keys()
    return graph


def folders(graph: dict[str, set[str]], separator: str) -> dict[str, set[str]]:
    """The same for the folders that they stand in."""
    of = {name: name.rsplit(separator, 1)[0] for name in graph}
    result = defaultdict(set)
    for name, targets in graph.items():
        result[of[name]] |= {of[target] for target in targets} - {of[name]}
    return result


def test_every_native_header_has_a_room() -> None:
    assert {path.parent.parent for path in native_files()} == {DATAPLANE}
    assert {path.parent.name for path in native_files()} == set(ROOMS)


def test_native_rooms_point_down() -> None:
    for room, targets in folders(native_graph(), "/").items():
        for target in targets:
            assert ROOMS.index(target) > ROOMS.index(room), f"{room} cimports {target}"


def test_no_circle_of_native_headers() -> None:
    list(TopologicalSorter(native_graph()).static_order())


def test_no_circle_of_modules() -> None:
    list(TopologicalSorter(python_graph()).static_order())


def test_no_circle_of_folders() -> None:
    graph = folders(python_graph(), ".")
    del graph["l4lb"]  # what users import; it names them all
    list(TopologicalSorter({name: targets - {"l4lb"} for name, targets in graph.items()}).static_order())


def test_no_folder_is_crowded() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx"), *native_files()]:
        counts[path.parent] += path.name != "__init__.py"
    assert max(counts.values()) <= MODULES_MAX, {str(folder): count for folder, count in counts.items() if count > 16}


def test_files_stay_small_enough_to_hold_in_the_head() -> None:
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")]:
        assert len(path.read_text().splitlines()) <= LINES_MAX, path


def test_the_engine_alone_knows_the_data_plane() -> None:
    inside = re.compile(
        r"\b_fastpath\b|_native(\.| import .*)"
        r"\b(snapshots|routes|sweeps|counted|times|migration|tcp_migration|specs|reports|flow_state)\b"
    )
    users = [path for path in PACKAGE.rglob("*.py") if inside.search(path.read_text())]
    assert {path.relative_to(PACKAGE).parts[0] for path in users} - {"_native"} == {"engine"}


def test_no_gil_is_taken_below_the_modules() -> None:
    for path in native_files():
        assert "with gil" not in path.read_text(), path
