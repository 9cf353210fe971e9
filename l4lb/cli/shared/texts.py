"""What the API's answers are in words, for tables and for `l4lb top`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from l4lb.cli.shared.output import joined

HEALTH_COLOUR = {"up": "green", "down": "red", "unknown": "yellow"}
ADMIN_COLOUR = {"drain": "yellow", "maint": "magenta"}


def size_text(count: int) -> str:
    """Bytes in the largest unit that keeps them above 1."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age_text(seconds: float) -> str:
    """Short, and exact enough: 250ms, 12s, 5m3s, 2h10m, 3d4h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{smaller}"
    return f"{whole}s"


def latency_text(seconds: float) -> str:
    """Such as 0.3 ms, 240 ms, 1.5 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def health_text(backend: Mapping[str, Any]) -> str:
    """What this process sees and, where that differs, what most nodes of its fleet see, which counts."""
    own, fleet = backend["health"], backend["fleet_health"]
    return str(own) if fleet in (None, own) else f"{own}, fleet: {fleet}"


def health_colour(backend: Mapping[str, Any]) -> str:
    return HEALTH_COLOUR[backend["fleet_health"] or backend["health"]]


def drain_text(drain: Mapping[str, Any] | None) -> str:
    """Empty while it accepts."""
    if drain is None:
        return ""
    return "drained" if drain["over"] else f"drains, at most {drain['remaining_s']:.0f} s more"


def usage_text(usage: Mapping[str, Any] | None) -> str:
    """CPU and memory of the process; empty when it could not read them."""
    if usage is None:
        return ""
    return f"CPU {100 * usage['cpu_ratio']:.0f} %, memory {size_text(usage['memory_bytes'])}"


def fleet_text(known: Mapping[str, Any] | None) -> str:
    """Which node of which fleet it is, and what is wrong there; empty for a process that belongs to none."""
    if known is None:
        return ""
    drains = ", drained by an operator" if known["draining"] else ""
    error = f": {known['error']}" if known["error"] else ""
    return f"node {known['node']} of {known['prefix']}, generation {known['generation']}{drains}{error}"


def check_text(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return ""
    return f"{check['latency_ms']:.1f} ms" if check["ok"] else f"{check['step']}: {check['reason']}"


def counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def discovery_text(known: Mapping[str, Any] | None) -> str:
    """Where the backends come from, how old that is, and what is wrong with it; empty for a pool without a source."""
    if known is None:
        return ""
    age = "" if known["age_s"] is None else f", {known['age_s']:.0f} s ago"
    held = f", {known['held']} held" if known["held"] else ""
    error = f": {known['error']}" if known["error"] else ""
    return f"discovery by {known['type']}: {known['backends']} backends{held}{age}{error}"


def engine_text(listener: Mapping[str, Any]) -> str:
    """With the mode, of one that the kernel forwards."""
    in_kernel = listener["in_kernel"]
    return f"kernel, {in_kernel['mode']}" if in_kernel else str(listener["engine"])


def devices_text(in_kernel: Mapping[str, Any] | None) -> str:
    """By which devices packets come in; what was tried there before, if anything."""
    if not in_kernel:
        return ""
    tried = [f" (not {one['tried']})" if one["tried"] else "" for one in in_kernel["devices"]]
    return ", ".join(
        f"{one['device']} by {one['way']}{said}" for one, said in zip(in_kernel["devices"], tried, strict=True)
    )


def place_text(listener: Mapping[str, Any]) -> str:
    """In one line: its addresses, and of one that the kernel forwards its mode, and the ways it sees packets."""
    addresses = " ".join(listener["addresses"])
    if not listener["in_kernel"]:
        return addresses
    ways = sorted({one["way"] for one in listener["in_kernel"]["devices"]})
    return f"{addresses} {listener['in_kernel']['mode']}, {' '.join(ways)}"


def serves(backend: Mapping[str, Any]) -> bool:
    """Whether it gets new sessions now, if only after others."""
    return not backend["passed_over"] and not _full(backend)


def _full(backend: Mapping[str, Any]) -> bool:
    return bool(0 < backend["max_sessions"] <= backend["sessions_active"])


def backend_note(backend: Mapping[str, Any]) -> str:
    """Why it gets no new session, or fewer than its settings let expect, and what else is wrong with it."""
    path_errors = counts_text(backend["path_errors"])
    return joined(
        (
            _passed_over(backend) or _serving(backend),
            f"slow: {backend['slow']}" if backend.get("slow") else "",
            f"path errors: {path_errors}" if path_errors else "",
            _name_error(backend.get("resolved")),
        ),
        "; ",
    )


def _passed_over(backend: Mapping[str, Any]) -> str:
    if backend["passed_over"]:
        reason = str(backend["passed_over"])
        if reason != "health down":
            return f"no new sessions: {reason}"
        ago = age_text(max(time.time() - backend["health_since"], 0))
        check = backend["last_check"]
        why = f" ({check_text(check)})" if check and not check["ok"] else ""
        return f"no new sessions: down for {ago}{why}"
    return f"no new sessions: has its max_sessions, {backend['max_sessions']}" if _full(backend) else ""


def _serving(backend: Mapping[str, Any]) -> str:
    """What is unusual about a backend that may get new sessions."""
    check, agent = backend["last_check"], backend["agent"]
    expected = backend["weight"] * agent["percent"] / 100
    down = (backend["fleet_health"] or backend["health"]) == "down"
    said = (
        f"standby: {backend['standby']}" if backend["standby"] else "",
        "ejected, but the pool has no other" if backend["ejected"] else "",
        "down, but the pool ignores health now" if down else "",
        f"agent: {agent['percent']}% of its weight" if agent["percent"] < 100 else "",
        f"slow start: weight {backend['effective_weight']:.2g} of {expected:g}"
        if 0 < backend["effective_weight"] < 0.995 * expected
        else "",
        f"last check failed: {check_text(check)}" if check and not check["ok"] else "",
    )
    return joined(said, "; ")


def _name_error(resolved: Mapping[str, Any] | None) -> str:
    if resolved is None or not resolved["error"] or not resolved["address"]:
        return ""
    return f"its name was not found again, the last answer counts: {resolved['error']}"
