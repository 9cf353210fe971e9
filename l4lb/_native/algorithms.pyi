from array import array

from l4lb._native.headers import HeaderKind, ParsedHeader

TABLE_KINDS: dict[str, int]

def xxh64(data: bytes, seed: int) -> int: ...
def build_table(kind: int, ids: list[bytes], weights: list[float], table_size: int, seed: int) -> array[int]: ...

_Endpoint = tuple[bytes, int]
_Tlvs = list[tuple[int, bytes]]

def crc32c(data: bytes) -> int: ...
def proxy_parse(data: bytes, mode: int, datagram: bool = False) -> ParsedHeader: ...
def proxy_build(
    kind: HeaderKind,
    source: _Endpoint,
    destination: _Endpoint,
    tlvs: _Tlvs,
    with_crc32c: bool,
    capacity: int,
) -> bytes: ...
