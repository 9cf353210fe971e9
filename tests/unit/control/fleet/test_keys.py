"""What others wrote into etcd is taken as it should be, or refused with a reason."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.fleet import keys
from l4lb.control.fleet.keys import (
    Document,
    Entry,
    entry_value,
    history_key,
    node_value,
    parse_document,
    parse_entry,
    parse_node_record,
)
from l4lb.control.state.fleet import BackendCounts, NodeRecord
from l4lb.net.services.etcd import KeyValue

RECORD = NodeRecord(
    "a", 12, "1.0", "running", 3, 4, "generation 4: no", 7, {"web": "00ff"}, 5, {"web": BackendCounts(1, 2)}, 1.5, False
)
ENTRY = Entry(12, 1.5, "root@host", "why", "[pools]\n# ä\n")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_what_a_node_says_is_read_as_it_was_written() -> None:
    assert parse_node_record("a", node_value(RECORD)) == RECORD
    more = {**json.loads(node_value(RECORD)), "of_a_later_version": [1]}
    assert parse_node_record("a", json.dumps(more).encode()) == RECORD


def test_a_generation_of_the_history_is_read_as_it_was_written() -> None:
    assert history_key(12) == "history/00000012"
    assert parse_entry(history_key(12), entry_value(ENTRY)) == ENTRY


def test_a_configuration_is_a_text() -> None:
    assert parse_document(KeyValue("k", "ä".encode(), 9, 3)) == Document("ä", 3, 9)
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 1\)"):
        parse_document(KeyValue("k", b"a\xff"))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pid", "12", "pid: "),
        ("pid", -1, "pid: "),
        ("pid", 1 << 80, "pid: "),
        ("pid", True, "pid: "),
        ("pid", 1.0, "pid: "),
        ("generation", None, "generation: "),
        ("version", "x" * 2001, "version: "),
        ("state", 5, "state: "),
        ("digests", ["00"], "digests: "),
        ("digests", {"web": 1}, "digests.web: "),
        ("backends", {"web": [1]}, "backends.web"),
        ("backends", {"web": [1, 2, 3]}, "backends.web"),
        ("backends", {"web": [1, -2]}, "backends.web.1: "),
        ("started", "now", "started: "),
        ("started", float("nan"), "started: "),
        ("started", float("inf"), "started: "),
        ("draining", 1, "draining: "),
        ("node", "b", 'node: "b" below the key of another'),
    ],
)
def test_what_a_node_cannot_say_is_named(key: str, value: object, reason: str) -> None:
    said = {**json.loads(node_value(RECORD)), key: value}
    with pytest.raises(ValueError, match=f"^{reason}"):
        parse_node_record("a", json.dumps(said).encode())
    del said[key]
    with pytest.raises(ValueError, match=f"^{key}: Field required"):
        parse_node_record("a", json.dumps(said).encode())


@pytest.mark.parametrize("value", [b"", b"\xff", b"{", b"[]", b"null", b"[" * 100_000, b'"' + b"x" * (5 << 20) + b'"'])
def test_what_is_no_json_of_ours_is_refused(value: bytes) -> None:
    for parse in (lambda: parse_node_record("a", value), lambda: parse_entry("history/00000001", value)):
        with pytest.raises(ValueError, match=r".") as caught:
            parse()
        assert len(str(caught.value)) < 300


@given(st.dictionaries(st.sampled_from([*json.loads(node_value(RECORD)), "more"]), JSON))
def test_nothing_but_a_value_error_comes_of_any_json(changed: dict[str, Any]) -> None:
    said = {**json.loads(node_value(RECORD)), **changed}
    with contextlib.suppress(ValueError):
        found = parse_node_record("a", json.dumps(said).encode())
        assert parse_node_record("a", node_value(found)) == found
    with contextlib.suppress(ValueError):
        parse_entry("history/00000001", json.dumps(changed).encode())


@pytest.mark.parametrize("name", ["", "x", "-1", "1.0", "²", "١", "1" * 19, "0x1"])  # noqa: RUF001
def test_a_key_of_the_history_is_a_number(name: str) -> None:
    with pytest.raises(ValueError, match="expected the number of a generation"):
        parse_entry(f"{keys.HISTORY}{name}", entry_value(ENTRY))


def test_equal_records_are_equal_whatever_counts_are_made_of() -> None:
    assert replace(RECORD, backends={"web": BackendCounts(1, 2)}) == RECORD
    assert replace(RECORD, backends={"web": BackendCounts(2, 2)}) != RECORD
