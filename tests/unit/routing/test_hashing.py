from __future__ import annotations

import xxhash

from l4lb.routing.hashing import source_hash


def test_prefixes_and_mapped_addresses() -> None:
    plain = source_hash("192.0.2.7", 5)
    assert plain == xxhash.xxh64_intdigest(bytes([192, 0, 2, 7]), seed=5)
    assert source_hash("::ffff:192.0.2.7", 5) == plain
    assert source_hash("192.0.2.7", 0, prefix_v4=24) == source_hash("192.0.2.200", 0, prefix_v4=24)
    assert source_hash("2001:db8::1", 0, prefix_v6=64) == source_hash("2001:db8::2", 0, prefix_v6=64)
    assert source_hash("192.0.2.7", 0) != source_hash("192.0.2.7", 1)
