"""Publishes to the programs in the kernel, timed in a process that has given up its rights.

    python -m benchmarks.kernel.publishing POOLS CHANGES

Prints a JSON object, in seconds: the time of the first publish, of all pools, and of each of so many after it, in which
one pool has another table.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from array import array
from dataclasses import replace

from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.engine.kernel.slots import words_of
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, KernelTerms, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.net.privileges import become, capabilities, identity_of

SLOTS, BACKENDS = 65_537, 4


def _address(number: int, port: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", port)


def _table(number: int) -> array[int]:
    return array("I", random.Random(number).choices(range(BACKENDS), k=SLOTS))


def _snapshot(pools: int) -> Snapshot:
    """All pools have the same table, each with backends of its own."""
    slots, made = _table(0), []
    for number in range(pools):
        backends = tuple(BackendSpec(f"b{one}", _address(number * BACKENDS + one, 80)) for one in range(BACKENDS))
        made.append(PoolSpec(f"pool{number}", Selection.HASH, backends, tuple(range(BACKENDS)), slots))
    listeners = tuple(
        ListenerSpec(f"l{number}", (_address((1 << 17) + number, 80),), f"pool{number}", kernel=KernelTerms("dsr"))
        for number in range(pools)
    )
    return Snapshot(1, tuple(made), listeners)


def _changed(snapshot: Snapshot, number: int) -> Snapshot:
    pools = list(snapshot.pools)
    changed = random.Random(number).randrange(len(pools))
    pools[changed] = replace(pools[changed], slots=_table(number))
    return Snapshot(snapshot.version + 1, tuple(pools), snapshot.listeners)


def _publish(forwarder: KernelForwarder, snapshot: Snapshot) -> float:
    began = time.perf_counter()
    forwarder.publish(snapshot)
    return time.perf_counter() - began


def main(pools: int, changes: int) -> None:
    forwarder = KernelForwarder(images(), slots=4 * words_of(SLOTS) * (pools + changes))
    snapshot, times = _snapshot(pools), []
    first = _publish(forwarder, snapshot)
    become(identity_of("nobody"), keep=())
    assert not capabilities()
    for number in range(changes):
        snapshot = _changed(snapshot, number + 1)
        times.append(_publish(forwarder, snapshot))
    forwarder.close()
    print(json.dumps({"first": first, "changes": times}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
