"""What is wrong with a fleet: pure, of what its keys say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from l4lb.cli.shared.connection import sessions
from l4lb.control.fleet.store import FleetError, Overview
from l4lb.control.state.fleet import NodeRecord


def behind(found: Overview, node: NodeRecord) -> str:
    """Why the node does not go by the newest configuration; empty when it does, and for one that is about to end."""
    if node.generation == found.generation or not found.generation or node.state == "draining":
        return ""
    return node.error or f"it goes by generation {node.generation}"


def differing(found: Overview) -> dict[str, dict[str, list[str]]]:
    """By pool: which nodes have which table, where nodes that go by one configuration differ. Backends that one of
    them cannot use are the reason, as a rule."""
    tables: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, node in sorted(found.nodes.items()):
        for pool, digest in node.digests.items() if node.generation == found.generation else ():
            tables[pool][digest].append(name)
    return {pool: dict(one) for pool, one in sorted(tables.items()) if len(one) > 1}


def problems(found: Overview) -> Iterator[str]:
    """A line for each."""
    if not found.generation:
        yield "there is no configuration: `l4lb fleet config put FILE` makes it"
    for name, node in sorted(found.nodes.items()):
        if why := behind(found, node):
            yield f"node {name} is behind: {why}"
    for pool, tables in differing(found).items():
        sides = " and ".join(", ".join(names) for names in tables.values())
        yield f"pool {pool}: the tables of {sides} differ"
    for key, reason in sorted(found.broken.items()):
        yield f"key {key}: {reason}"


def not_yet(found: Overview, generation: int) -> str:
    """Which nodes do not go by that generation, or a later one, yet; those that are about to end do not count.
    FleetError when one never will."""
    done = range(generation, max(generation, found.generation) + 1)  # not those from before etcd lost its data
    nodes = [(name, node) for name, node in sorted(found.nodes.items()) if node.state != "draining"]
    late = {name: node for name, node in nodes if node.generation not in done}
    for name, node in late.items():
        if node.newest >= generation and node.error:
            raise FleetError(f"node {name} does not go by generation {generation}: {node.error}")
    return f"not yet on generation {generation}: {', '.join(late)}" if late else ""


def not_drained(found: Overview, name: str) -> str:
    """What a node that is drained waits for. FleetError when it is no longer there."""
    node = found.nodes.get(name)
    if node is None:
        raise FleetError(f"node {name} is no longer alive")
    if not node.draining:
        return f"node {name} has not noticed yet"
    return f"node {name}: {sessions(node.sessions_active)} left" if node.sessions_active else ""
