"""The fleet as the admin API shows it, in the shapes of `part_shapes.py`. Control thread only."""

from __future__ import annotations

from l4lb.control.reporting import part_shapes
from l4lb.control.state.fleet import NodeRecord
from l4lb.control.state.state import State


def fleet_part(state: State) -> part_shapes.FleetPart:
    """Of a process that belongs to one."""
    known, share = state.fleet, state.share
    assert known is not None
    return {
        "node": known.node,
        "prefix": known.prefix,
        "generation": known.generation,
        "newest": known.newest,
        "connected": known.connected,
        "error": known.error,
        "draining": known.draining,
        "share": {"nodes": share.nodes, "rank": share.rank + 1} if state.config.fleet.limits == "divided" else None,
    }


def fleet_node(node: NodeRecord) -> part_shapes.FleetNode:
    return {
        "node": node.node,
        "pid": node.pid,
        "version": node.version,
        "state": node.state,
        "generation": node.generation,
        "newest": node.newest,
        "error": node.error,
        "snapshot_version": node.snapshot_version,
        "digests": dict(node.digests),
        "sessions_active": node.sessions_active,
        "backends": {pool: {"usable": one.usable, "total": one.total} for pool, one in node.backends.items()},
        "started": node.started,
        "draining": node.draining,
    }
