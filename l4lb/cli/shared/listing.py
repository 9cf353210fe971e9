"""The tables of listeners, pools and backends, from the answers of the admin API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from l4lb.cli.shared.output import joined
from l4lb.cli.shared.tables import Column, Row, Table
from l4lb.cli.shared.texts import (
    ADMIN_COLOUR,
    backend_note,
    check_text,
    counts_text,
    devices_text,
    discovery_text,
    drain_text,
    engine_text,
    health_colour,
    health_text,
    latency_text,
    serves,
    size_text,
)
from l4lb.model.states import CloseReason

Shape = Mapping[str, Any]
_TRAFFIC = [
    Column("total", right=True, extra=3),
    Column("up", right=True, extra=4, text=size_text),
    Column("down", right=True, extra=4, text=size_text),
]
_LATENCY = [
    Column(f"{words} {part}", right=True, extra=extra, text=latency_text)
    for words, extra in (("first byte", 10), ("connect", 11))
    for part in ("p50", "p99")
]
_DATAGRAMS = [Column(f"datagrams {way}", right=True, extra=6) for way in ("up", "down")]
_PACKETS = [Column(f"packets {way}", right=True, extra=7) for way in ("up", "down")]

# Close reasons of clients who wanted to be served and were not; what an operator asks for is not among them.
_UNSERVED = frozenset(
    (
        CloseReason.CONNECT_FAILED,
        CloseReason.CONNECT_TIMEOUT,
        CloseReason.NO_BACKEND,
        CloseReason.QUEUE_FULL,
        CloseReason.QUEUE_TIMEOUT,
        CloseReason.DENIED,
        CloseReason.RATE_LIMITED,
        CloseReason.PROXY_HEADER_ERROR,
        CloseReason.RESOURCE_LIMIT,
        CloseReason.INTERNAL_ERROR,
    )
)


def _counted(one: Shape) -> dict[str, Any]:
    """Values of the columns that a pool and a backend share. Nobody knows how many packets go down where backends
    answer directly."""
    in_kernel = one["in_kernel"] or {}
    return {
        "sessions": one["sessions_active"],
        "total": one["sessions_total"],
        "up": one["bytes_up"],
        "down": one["bytes_down"],
        **{f"datagrams {way}": one[f"datagrams_{way}"] for way in ("up", "down")},
        **{f"packets {way}": in_kernel.get(f"packets_{way}") for way in ("up", "down")},
    }


def _optional(found: Sequence[Shape], every: bool) -> list[Column]:
    """Datagrams, and packets that the kernel forwarded, where there are any, or `every` column is wanted."""
    datagrams = every or any(one["datagrams_up"] or one["datagrams_down"] for one in found)
    packets = every or any(one["in_kernel"] for one in found)
    return (_DATAGRAMS if datagrams else []) + (_PACKETS if packets else [])


def needs_attention(backend: Shape) -> bool:
    """It gets no new session although an operator wants it to."""
    return backend["admin_state"] == "ready" and backend["weight"] > 0 and not serves(backend)


def unhealthy(pools: Iterable[Shape]) -> list[tuple[Shape, Shape]]:
    """Every backend that gets no new session, with its pool."""
    return [(pool, one) for pool in pools for one in pool["backends"] if not serves(one)]


def every_backend(pools: Iterable[Shape]) -> list[tuple[Shape, Shape]]:
    return [(pool, one) for pool in pools for one in pool["backends"]]


# ---- backends ----


def backend_table(found: Sequence[tuple[Shape, Shape]], every: bool = False, pools: bool = True) -> Table:
    """Of (pool, backend); `every` column, for scripts, and their `pools`."""
    backends = [one for _, one in found]
    address = every or any(_address(one) for one in backends)
    columns = [
        *([Column("pool")] if pools else []),
        Column("backend"),
        *([Column("address")] if address else []),
        Column("health"),
        Column("admin"),
        Column("weight", right=True),
        Column("sessions", right=True),
        *_TRAFFIC,
        *_optional(backends, every),
        Column("connect failures", right=True, extra=8),
        *([Column("zone", extra=9)] if every or any(one["zone"] for one in backends) else []),
        Column("last check", extra=5),
        *_LATENCY,
    ]
    return Table(columns, [_backend_row(pool, one, every) for pool, one in found])


def _address(backend: Shape) -> str:
    """Where it is, if its id does not say that."""
    at = str((backend["resolved"] or {}).get("address") or backend["address"])
    return "" if at == backend["id"] else at


def _backend_row(pool: Shape, backend: Shape, every: bool) -> Row:
    values = {
        "pool": pool["name"],
        "backend": backend["id"],
        "address": _address(backend) or (backend["address"] if every else ""),
        "health": health_text(backend),
        "admin": backend["admin_state"],
        "weight": backend["weight"],
        "connect failures": backend["connect_failures"],
        "zone": backend["zone"],
        "last check": check_text(backend["last_check"]),
        **_counted(backend),
        **_latency(backend.get("latency") or {}),
    }
    colours = {"health": health_colour(backend), "admin": ADMIN_COLOUR.get(backend["admin_state"], "")}
    return Row(values, backend_note(backend), colours)


def _latency(known: Shape) -> dict[str, Any]:
    """In seconds, of the latest minute; nothing where there was none, or nobody measures it."""
    return {
        f"{kind.replace('_', ' ')} {part}": known[kind][f"{part}_s"]
        for kind in ("first_byte", "connect")
        for part in ("p50", "p99")
        if kind in known
    }


# ---- pools ----


def pool_table(pools: Sequence[Shape], every: bool = False) -> Table:
    """A line each."""
    columns = [
        Column("pool"),
        Column("policy", extra=1),
        Column("usable", right=True),
        Column("backends", right=True),
        Column("sessions", right=True),
        Column("waiting", right=True, extra=2),
        *_TRAFFIC,
        *_optional(pools, every),
    ]
    return Table(columns, [_pool_row(one) for one in pools])


def _pool_row(pool: Shape) -> Row:
    count = len(pool["backends"])
    values = {
        "pool": pool["name"],
        "policy": pool["policy"],
        "usable": pool["usable"],
        "backends": count,
        "waiting": pool["waiting"],
        **_counted(pool),
    }
    colour = "red" if not pool["usable"] else "yellow" if pool["usable"] < count else "green"
    return Row(values, joined(_pool_notes(pool), "; "), {"usable": colour})


def _pool_notes(pool: Shape) -> list[str]:
    nobody = "no usable backend" if pool["backends"] else "no backend"
    policy = f"policy: {pool['policy_error']}" if pool["policy_error"] else ""
    return ["" if pool["usable"] else nobody, policy, discovery_text(pool["discovery"])]


# ---- listeners ----


def listener_table(listeners: Sequence[Shape], every: bool = False) -> Table:
    """With the engine, where there is more than the proxy."""
    engines = every or any(one["in_kernel"] for one in listeners)
    columns = [
        Column("listener"),
        Column("protocol", extra=1),
        *([Column("engine")] if engines else []),
        Column("address"),
        Column("pool"),
        Column("sessions", right=True),
        Column("total", right=True, extra=2),
    ]
    return Table(columns, [_listener_row(one) for one in listeners])


def _listener_row(listener: Shape) -> Row:
    values = {
        "listener": listener["name"],
        "protocol": listener["protocol"],
        "engine": engine_text(listener),
        "address": " ".join(listener["addresses"]),
        "pool": listener["pool"],
        "sessions": listener["sessions_active"],
        "total": listener["sessions_total"],
    }
    dropped, devices = counts_text(listener["dropped"]), devices_text(listener["in_kernel"])
    unserved = counts_text(
        {reason: count for reason, count in listener["closed"].items() if count and reason in _UNSERVED}
    )
    notes = (
        drain_text(listener["drain"]),
        f"refusing clients: {listener['refusing']}" if listener["refusing"] else "",
        f"devices: {devices}" if devices else "",
        f"not served: {unserved}" if unserved else "",
        f"dropped: {dropped}" if dropped else "",
    )
    return Row(values, joined(notes, "; "))
