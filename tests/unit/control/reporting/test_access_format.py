"""Every key of the contract in each line, whatever the names hold."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from l4lb.control.reporting.access_format import Formatter
from l4lb.model.states import CloseReason
from l4lb.model.stats import SessionRecord
from tests.support.lines import KEYS, parse_text

RECORD = SessionRecord(
    session_id=2**63 + 7,
    listener="web",
    pool="web",
    backend="10.0.0.1:8443",
    client="2001:db8::1",
    client_port=40000,
    local="[2001:db8::7]:443",
    started_s=100.0,
    connect_s=0.000_25,
    duration_s=1.5,
    bytes_up=120,
    bytes_down=2**40,
    attempts=2,
    close_reason=CloseReason.NORMAL,
    spliced=True,
)


def as_json(record: SessionRecord) -> dict[str, object]:
    (line,) = Formatter("json").lines([record])
    return json.loads(line)


def as_text(record: SessionRecord) -> dict[str, str]:
    (line,) = Formatter("text").lines([record])
    return parse_text(line)


def test_json() -> None:
    found = as_json(RECORD)
    assert list(found) == KEYS
    expected = {
        "listener": "web", "pool": "web", "backend": "10.0.0.1:8443", "client": "2001:db8::1", "client_port": 40000,
        "local": "[2001:db8::7]:443", "session_id": str(2**63 + 7), "bytes_up": 120, "bytes_down": 2**40,
        "connect_ms": 0.25, "duration_ms": 1500.0, "attempts": 2, "close_reason": "normal", "spliced": True, "sni": "",
    }  # fmt: skip
    assert {key: value for key, value in found.items() if key != "time"} == expected


def test_text() -> None:
    found = as_text(RECORD)
    assert list(found) == KEYS
    assert found["connect_ms"] == "0.250"
    assert found["duration_ms"] == "1500.000"
    assert found["close_reason"] == "normal"
    assert (found["spliced"], found["sni"]) == ("true", "-")


def test_what_there_is_none_of() -> None:
    refused = RECORD._replace(backend="", connect_s=0.0, attempts=0, close_reason=CloseReason.DENIED, spliced=False)
    assert (as_json(refused)["backend"], as_json(refused)["connect_ms"]) == ("", None)
    assert (as_text(refused)["backend"], as_text(refused)["connect_ms"]) == ("-", "-")
    assert as_json(RECORD._replace(sni="a.example"))["sni"] == "a.example"


@pytest.mark.parametrize("name", ['a "b" \\c', "two\nlines", "a=b", "ü € \x00"])
def test_names_stay_on_their_line_and_can_be_read_back(name: str) -> None:
    record = RECORD._replace(listener=name, pool=name, backend=name, local=f"unix:/{name}", sni=name)
    for found in (as_json(record), as_text(record)):
        assert [found[key] for key in ("listener", "pool", "backend", "sni")] == [name] * 4
        assert found["local"] == f"unix:/{name}"
    for log_format in ("text", "json"):
        assert "\n" not in Formatter(log_format).lines([record])[0]


def test_the_time_is_that_of_the_end() -> None:
    now = time.monotonic()
    ended = RECORD._replace(started_s=now - 10, duration_s=10.0)
    formatter = Formatter("json")
    for record in (ended, ended._replace(duration_s=8.75), ended):
        (line,) = formatter.lines([record])
        told = datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        expected = time.time() - (time.monotonic() - (record.started_s + record.duration_s))
        assert told == pytest.approx(expected, abs=0.05)


def test_tags_stand_behind_everything_else() -> None:
    tagged = RECORD._replace(tags={"customer": "acme", "note": 'a "b"\n=c', "empty": ""})
    assert as_json(tagged)["tags"] == tagged.tags
    assert list(as_json(tagged)) == [*KEYS, "tags"]
    (line,) = Formatter("text").lines([tagged])
    assert line.endswith(r' sni=- tags.customer=acme tags.note="a \"b\"\n=c" tags.empty=""')
    assert list(as_text(tagged)) == [*KEYS, "tags.customer", "tags.note", "tags.empty"]
