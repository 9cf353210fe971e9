"""Imports point one way, in the native code too (the Python layers are import-linter's, in pyproject.toml)."""

from __future__ import annotations

import re
from pathlib import Path

DATAPLANE = Path("l4lb/_dataplane")
# From the top down: a module may cimport from its own row's left neighbours' rows below, never upwards.
LAYERS = [
    {"worker"},
    {"udp", "moving"},
    {"beginning", "answers"},
    {"udp_connect"},
    {"accept", "events"},
    {"opening"},
    {"tcp", "evict", "sweep"},
    {"picking"},
    {"ending"},
    {"connect", "progress"},
    {"room"},
    {"closing", "headers"},
    {"relay", "records", "queue", "notices", "preface", "flows"},
    {"ready", "timers", "lookup", "limits", "places", "tables", "proxy_sender", "links"},
    {"load", "maglev", "ring", "rendezvous", "proxy_writer", "quic"},
    {"proxy_header"},
    {"sessions", "poller", "pipes", "chunks", "ewma", "hashing", "stats", "verdicts"},
    {"addresses", "ranges", "datagrams", "client_hello", "proxy_v1", "proxy_v2"},
    {"proxy_tlv", "crc32c", "paths"},
    {"proxy_types"},
    {"types"},
    {"udp_types", "proxy_terms", "parts"},
    {"linux", "enums"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


def cimports(path: Path) -> set[str]:
    return set(re.findall(r"^from l4lb\._dataplane\.(\w+) cimport", path.read_text(), re.MULTILINE))


def test_every_native_module_has_a_layer() -> None:
    assert {path.stem for path in DATAPLANE.glob("*.pxd")} - {"__init__"} == set(RANK)


def test_native_cimports_point_down() -> None:
    for path in DATAPLANE.glob("*.pxd"):
        for target in cimports(path):
            assert RANK[target] > RANK[path.stem], f"{path.stem} cimports {target}"


def test_the_engine_alone_knows_the_data_plane() -> None:
    inside = re.compile(r"\b(_fastpath|_snapshots|_sweeps|_moves)\b")
    users = [path for path in Path("l4lb").rglob("*.py") if inside.search(path.read_text())]
    assert {path.parent.name for path in users} == {"engine"}


def test_no_gil_is_taken_below_the_module() -> None:
    for path in DATAPLANE.glob("*.pxd"):
        assert "with gil" not in path.read_text(), path


def test_files_stay_small_enough_to_hold_in_the_head() -> None:
    for path in [*Path("l4lb").rglob("*.py"), *Path("l4lb").rglob("*.pyx"), *Path("l4lb").rglob("*.pxd")]:
        assert len(path.read_text().splitlines()) <= 450, path
