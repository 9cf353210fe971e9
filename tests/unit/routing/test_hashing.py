from __future__ import annotations

import pytest
import xxhash

from l4lb.model.snapshot import HashKey
from l4lb.routing.hashing import client_hash

HERE = ("198.51.100.1", 443)


def source(address: str, **options: int) -> int:
    return client_hash(HashKey.SOURCE_IP, (address, 1), HERE, **options)


def test_prefixes_and_mapped_addresses() -> None:
    plain = source("192.0.2.7", seed=5)
    assert plain == xxhash.xxh64_intdigest(bytes([192, 0, 2, 7]), seed=5)
    assert source("::ffff:192.0.2.7", seed=5) == plain
    assert source("192.0.2.7", prefix_v4=24) == source("192.0.2.200", prefix_v4=24)
    assert source("2001:db8::1", prefix_v6=64) == source("2001:db8::2", prefix_v6=64)
    assert source("192.0.2.7") != source("192.0.2.7", seed=1)


@pytest.mark.parametrize(
    ("key", "matters"),
    [
        (HashKey.SOURCE_IP, {"ip"}),
        (HashKey.SOURCE_IP_PORT, {"ip", "port"}),
        (HashKey.DESTINATION, {"local ip", "local port"}),
        (HashKey.SESSION, {"ip", "port", "local ip", "local port", "protocol"}),
    ],
)
def test_each_key_hashes_what_it_names(key: HashKey, matters: set[str]) -> None:
    def hash_of(changed: str = "") -> int:
        client = ("192.0.2.8" if changed == "ip" else "192.0.2.7", 1001 if changed == "port" else 1000)
        local = ("192.0.2.2" if changed == "local ip" else "192.0.2.1", 444 if changed == "local port" else 443)
        return client_hash(key, client, local, protocol=17 if changed == "protocol" else 6)

    for part in ("ip", "port", "local ip", "local port", "protocol"):
        assert (hash_of(part) != hash_of()) == (part in matters), part


def test_a_connection_id_counts_wherever_the_client_is() -> None:
    ids = {"connection_id": b"8 bytes."}
    assert client_hash(HashKey.QUIC_CID, ("192.0.2.7", 1), HERE, **ids) == xxhash.xxh64_intdigest(b"8 bytes.")
    assert client_hash(HashKey.QUIC_CID, ("192.0.2.8", 2), HERE, **ids) == xxhash.xxh64_intdigest(b"8 bytes.")
    assert client_hash(HashKey.QUIC_CID, ("192.0.2.7", 1), HERE) == source("192.0.2.7")


def test_a_random_draw_has_no_hash() -> None:
    with pytest.raises(ValueError, match="random"):
        client_hash(HashKey.RANDOM, HERE, HERE)
