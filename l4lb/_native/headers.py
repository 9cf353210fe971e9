"""PROXY headers between Python and native code. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ParsedHeader(NamedTuple):
    """What a PROXY header says, in the numbers of `_dataplane/proxy_protocol/types.pxd`: all but `result` count only
    when that is 0. An endpoint is (address, port), of a unix socket (108 bytes, 0)."""

    result: int
    length: int = 0
    version: int = 0
    command: int = 0
    family: int = 0
    transport: int = 0
    source: tuple[bytes, int] = (b"", 0)
    destination: tuple[bytes, int] = (b"", 0)
    tlvs: Sequence[tuple[int, bytes]] = ()


class HeaderKind(NamedTuple):
    """The PROXY header to write, in the same numbers."""

    version: int
    command: int
    family: int
    transport: int
