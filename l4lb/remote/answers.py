"""From the admin API's answers back to what a `LoadBalancer` has: statistics and events. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from l4lb.control.state.events import Event
from l4lb.errors import AdminError
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, PathError, SourceLimit
from l4lb.model.stats import BackendStats, Device, ListenerStats, PoolStats, Stats, Traffic, WorkerStats

if TYPE_CHECKING:
    from l4lb.control.reporting import part_shapes, shapes

K = TypeVar("K", bound=Enum)


def _counts(kind: type[K], answer: Mapping[Any, int]) -> dict[K, int]:
    """Without those that this version of l4lb does not know, as an instance of another version may send them."""
    known = {member.value for member in kind}
    return {kind(name): count for name, count in answer.items() if name in known}


def _traffic(answer: part_shapes.Traffic | None) -> Traffic | None:
    return None if answer is None else Traffic(**answer)


def backend_stats(answer: shapes.Backend) -> BackendStats:
    return BackendStats(
        sessions_active=answer["sessions_active"],
        sessions_total=answer["sessions_total"],
        bytes_up=answer["bytes_up"],
        bytes_down=answer["bytes_down"],
        early_resets=answer["early_resets"],
        failed=_counts(ConnectFailure, answer["failed"]),
        datagrams_up=answer["datagrams_up"],
        datagrams_down=answer["datagrams_down"],
        source_misfits=answer["source_misfits"],
        path_errors=_counts(PathError, answer["path_errors"]),
        in_kernel=_traffic(answer["in_kernel"]),
    )


def pool_stats(answer: shapes.Pool) -> PoolStats:
    return PoolStats({one["id"]: backend_stats(one) for one in answer["backends"]}, answer["waiting"])


def _listener_stats(answer: shapes.Listener) -> ListenerStats:
    in_kernel = answer["in_kernel"]
    devices = in_kernel["devices"] if in_kernel else []
    return ListenerStats(
        addresses=tuple(answer["addresses"]),
        sessions_active=answer["sessions_active"],
        sessions_total=answer["sessions_total"],
        closed=_counts(CloseReason, answer["closed"]),
        dropped=_counts(DropReason, answer["dropped"]),
        proxy_refused=dict(answer["proxy_refused"]),
        source_limited=_counts(SourceLimit, answer["source_limited"]),
        in_kernel=_traffic(in_kernel["traffic"]) if in_kernel else None,
        devices=tuple(Device(one["device"], one["way"], one["tried"]) for one in devices),
    )


def _worker_stats(answer: shapes.Worker) -> WorkerStats:
    return WorkerStats(
        sessions_active=answer["sessions_active"],
        busy_ns=round(answer["busy_s"] * 1e9),
        spliced_bytes=answer["spliced_bytes"],
        accept_pauses=answer["accept_pauses"],
        handed_over=answer["handed_over"],
        late_answers=answer["late_answers"],
    )


def stats(answer: shapes.Status) -> Stats:
    return Stats(
        snapshot_version=answer["snapshot_version"],
        listeners={one["name"]: _listener_stats(one) for one in answer["listeners"]},
        pools={one["name"]: pool_stats(one) for one in answer["pools"]},
        workers=tuple(map(_worker_stats, answer["workers"])),
        sessions_left=answer["sessions_active"],
    )


def event(data: bytes) -> Event:
    """Of the data of a Server-Sent Event. AdminError when it is none of l4lb's."""
    try:
        fields = json.loads(data)
        kind, time, level = str(fields.pop("kind")), float(fields.pop("time")), str(fields.pop("level"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AdminError(f"this is no event of l4lb: {data[:60]!r}") from None
    return Event(kind, fields, logging.getLevelNamesMapping().get(level.upper(), logging.INFO), time)
