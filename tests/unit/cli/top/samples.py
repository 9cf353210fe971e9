"""Answers of an instance, as `l4lb top` reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.ui import Ui

FAILED = {"ok": False, "step": "connect", "reason": "connection refused", "latency_ms": 0.3}
PASSED = {"ok": True, "step": "connect", "reason": "", "latency_ms": 1.5}
TRAFFIC = {"sessions_total": 7, "bytes_up": 2048, "bytes_down": 4096, "datagrams_up": 0, "datagrams_down": 0}


def backend(id_: str, **changed: Any) -> dict[str, Any]:
    """One that is up and ready."""
    agent = {"health": "up", "admin_state": "ready", "percent": 100, "max_sessions": None, "remark": ""}
    usual = {
        "id": id_, "address": "127.0.0.1:80", "resolved": None, "weight": 1, "effective_weight": 1.0, "max_sessions": 0,
        "priority": 0, "zone": "", "tags": {}, "admin_state": "ready", "usable": True, "passed_over": "", "standby": "",
        "health": "up", "health_since": time.time(), "fleet_health": None, "last_check": None, "history": [],
        "ejected": False, "ejections": 0, "agent": agent, "sessions_active": 3, **TRAFFIC, "connect_failures": 0,
        "failed": {}, "early_resets": 0, "source_misfits": 0, "path_errors": {}, "in_kernel": None,
    }  # fmt: skip
    assert changed.keys() <= usual.keys() | {"checks", "latency", "slow"}
    return usual | changed


def down(id_: str, **changed: Any) -> dict[str, Any]:
    out = {"health": "down", "usable": False, "passed_over": "health down", "sessions_active": 0}
    return backend(id_, **out | {"last_check": {**FAILED, "at": time.time()}} | changed)


def pool(name: str, *backends: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name, "policy": "maglev", "discovery": None, "table_digest": "", "policy_error": "",
        "usable": sum(one["usable"] for one in backends),
        "sessions_active": sum(one["sessions_active"] for one in backends), **TRAFFIC, "waiting": 0, "in_kernel": None,
        "backends": list(backends),
    }  # fmt: skip


def listener(name: str, **changed: Any) -> dict[str, Any]:
    usual = {
        "name": name, "protocol": "tcp", "engine": "proxy", "in_kernel": None, "pool": "web",
        "addresses": ["127.0.0.1:8080"], "drain": None, "refusing": "", "max_sessions": 0, "sessions_active": 3,
        "sessions_total": 7, "closed": {"normal": 4}, "proxy_refused": {}, "source_limited": {}, "dropped": {},
        "hook": None,
    }  # fmt: skip
    return usual | changed


def status(*pools: Mapping[str, Any]) -> dict[str, Any]:
    worker = {"worker": 0, "sessions_active": 3, "busy_s": 1.0, "spliced_bytes": 0, "accept_pauses": 0}
    return {
        "pid": 12, "version": "0.1.0", "state": "running", "drain": None, "snapshot_version": 3, "uptime_s": 5.0,
        "sessions_active": 3, "usage": {"cpu_s": 1.0, "cpu_ratio": 0.1, "memory_bytes": 5000000, "threads": 4},
        "fleet": None, "bans": 0, "listeners": [listener("front")], "pools": list(pools),
        "workers": [{**worker, "handed_over": 0, "late_answers": 0}],
    }  # fmt: skip


def session(id_: str, **changed: Any) -> dict[str, Any]:
    usual = {
        "id": id_, "engine": "proxy", "listener": "front", "protocol": "tcp", "pool": "web", "backend": "a",
        "client": f"192.0.2.1:{id_}", "local": "127.0.0.1:8080", "state": "relaying", "age_s": 5.0, "idle_s": 1.0,
        "bytes_up": 10, "bytes_down": 20, "tags": {},
    }  # fmt: skip
    return usual | changed


def source(address: str, sessions: int = 1) -> dict[str, Any]:
    return {
        "listener": "front", "source": address, "sessions_active": sessions, "sessions_total": 7, "session_rate": 1.5,
        "limited": 2, "bytes_up": 1, "bytes_down": 2,
    }  # fmt: skip


def ban(cidr: str) -> dict[str, Any]:
    return {"cidr": cidr, "listener": None, "until": time.time() + 60, "reason": "a test", "since": time.time()}


def seen(*pools: Mapping[str, Any]) -> Seen:
    """By default pool web with a, which is up, and b, which is down; pool api without a usable backend."""
    found = Seen()
    found.answered(status(*(pools or (pool("web", backend("a"), down("b")), pool("api", down("c"))))), 1.0)
    return found


def ui(found: Seen | None = None, read_only: bool = False) -> Ui:
    made = Ui(found or seen(), read_only)
    made.arrange()
    return made


def press(made: Ui, *keys: str) -> Any:
    """What the last one of them leads to."""
    done: Any = None
    for key in keys:
        done = made.press(key)
    return done
