"""The keys of a fleet, by what follows its prefix, and the forms of their values.

| key | value |
|---|---|
| ``config`` | the configuration as TOML; its generation is etcd's version of this key |
| ``history/00000012`` | generation 12: JSON, who put it, when, why, and its text |
| ``nodes/NAME`` | a node that is alive: JSON, what it says of itself; it has the node's lease |
| ``drain/NAME`` | there while that node is to be drained |
| ``health/NAME`` | which backends that node sees as up and as down: JSON; it has the node's lease |
| ``bans/CIDR``, ``bans/CIDR@LISTENER`` | clients that all nodes refuse: JSON, until when and why |

What others wrote is not to be trusted: each ``parse_`` raises a ValueError that says what is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from l4lb.control.state.fleet import BackendCounts, NodeRecord
from l4lb.control.state.state import State
from l4lb.net.services.etcd import KeyValue
from l4lb.version import __version__

CONFIG = "config"
HISTORY = "history/"
NODES = "nodes/"
DRAIN = "drain/"
BANS = "bans/"
VERDICTS = "health/"
FOLLOWED = (CONFIG, NODES, DRAIN, BANS, VERDICTS)  # what every node watches
VALUE_BYTES_MAX = 4 << 20  # etcd itself takes 1.5 MiB unless it is told otherwise

_Text = Annotated[str, Field(max_length=2000)]
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration of etcd. `revision` is etcd's, by which the newer of two is known."""

    text: str
    generation: int
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """Of the history: `at` is in seconds since 1970."""

    generation: int
    at: float
    by: str
    comment: str
    text: str


class _Said(BaseModel):
    """Keys that are not known here are those of another version."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Node(_Said):
    node: _Text
    pid: _Count
    version: _Text
    state: _Text
    generation: _Count
    newest: _Count
    error: _Text
    snapshot_version: _Count
    digests: dict[str, _Text]
    sessions_active: _Count
    backends: dict[str, tuple[_Count, _Count]]
    started: _Seconds
    draining: bool


class _Entry(_Said):
    at: _Seconds
    by: _Text
    comment: _Text
    text: str


T = TypeVar("T", bound=_Said)


def history_key(generation: int) -> str:
    return f"{HISTORY}{generation:08d}"


def parse_document(kv: KeyValue) -> Document:
    try:
        text = kv.value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    return Document(text, kv.version, kv.revision)


def node_record(state: State, snapshot_version: int, sessions_active: int) -> NodeRecord:
    """What this node, which belongs to a fleet, says of itself."""
    known, pools = state.fleet, state.pools.values()
    assert known is not None
    return NodeRecord(
        known.node,
        os.getpid(),
        __version__,
        state.process,
        known.generation,
        known.newest,
        known.refused,
        snapshot_version,
        {pool.name: pool.table_digest for pool in pools},
        sessions_active,
        {pool.name: BackendCounts(len(pool.usable), len(pool.backends)) for pool in pools},
        known.started,
        known.draining,
    )


def node_value(record: NodeRecord) -> bytes:
    return _json(asdict(record))


def parse_node_record(name: str, value: bytes) -> NodeRecord:
    said = _parsed(_Node, value)
    if said.node != name:
        raise ValueError(f'node: "{said.node}" below the key of another')
    counts = {pool: BackendCounts(*one) for pool, one in said.backends.items()}
    return NodeRecord(**{**dict(said), "backends": counts})


def drain_value(at: float, by: str) -> bytes:
    """For whoever reads it: that the key is there is what counts."""
    return _json({"at": at, "by": by})


def entry_value(entry: Entry) -> bytes:
    said = asdict(entry)
    del said["generation"]
    return _json(said)


def parse_entry(key: str, value: bytes) -> Entry:
    """`key` is what follows the prefix."""
    number = key.removeprefix(HISTORY)
    if not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise ValueError("expected the number of a generation")
    return Entry(int(number), **dict(_parsed(_Entry, value)))


def _json(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _parsed(kind: type[T], value: bytes) -> T:
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"larger than {VALUE_BYTES_MAX >> 20} MiB")
    try:
        return kind.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(": ".join(filter(None, [where, first["msg"]]))) from None
