"""A UDP session on its way between processes, as native code lets go of it and takes it. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class FlowState(NamedTuple):
    """The state of a session, without its sockets and its backend. Addresses are packed, in hexadecimal.

    The names and their order are those of the message from process to process: a name that changes ends the sessions at
    an upgrade from a version that has the old one.
    """

    age_ms: int
    idle_ms: int
    bytes_up: int
    bytes_down: int
    datagrams_up: int
    datagrams_down: int
    requests_left: int
    responses: int
    one_way: bool
    source: str
    source_port: int
    peer: str
    peer_port: int
    scope_id: int
    local: str
    local_port: int
    interface: int
    destination: str
    destination_port: int
    named: bool
    wide: bool
    link_wide: bool
    no_trains: bool
    quic: bool
    quic_given: int
    quic_given_length: int
    id: int = 0

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> FlowState:
        """KeyError for what is missing. What only another version knows is left out; native code checks the values."""
        optional = cls._field_defaults
        return cls(**{name: said[name] for name in cls._fields if name in said or name not in optional})

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


class ExportedFlow(NamedTuple):
    """A session that a worker has released: `fd` is the listening socket, `link_fd` the socket to the backend, which
    belongs to the receiver of this record."""

    fd: int
    link_fd: int
    backend_id: int
    state: FlowState
