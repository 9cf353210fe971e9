"""What a snapshot says, in the units and numbers of the data plane: milliseconds, bytes, its enums. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from l4lb._native import snapshots
from l4lb.model.snapshot import ListenerSpec, PoolSpec, ProxyAccept, ProxySend
from l4lb.net.listen.sockets import sockaddr_bytes
from l4lb.net.ranges import packed_ranges

_MS_MAX = 2**31 - 1  # 24 days: the workers compare 32-bit milliseconds


def milliseconds(seconds: float) -> int:
    """At least 1 ms for any time above 0; 0 stays "no limit"."""
    return min(max(round(seconds * 1000), 1), _MS_MAX) if seconds > 0 else 0


def backend_options(spec: ListenerSpec) -> dict[str, int]:
    """Of the sockets to backends."""
    keepalive = spec.keepalive
    return {
        "keepalive": keepalive is not None,
        "keepalive_idle_s": max(round(keepalive.idle_s), 1) if keepalive else 0,
        "keepalive_interval_s": max(round(keepalive.interval_s), 1) if keepalive else 0,
        "keepalive_count": keepalive.count if keepalive else 0,
        "user_timeout_ms": milliseconds(spec.user_timeout_s),
    }


def listener_limits(spec: ListenerSpec) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """As `ListenerLive.set_limits` takes them."""
    return (
        (round(spec.bandwidth_up), round(spec.bandwidth_down)),
        (round(spec.total_bandwidth_up), round(spec.total_bandwidth_down)),
        round(spec.session_rate),
        round(spec.session_burst * 1e9 / spec.session_rate) if spec.session_rate else 0,
    )


def listener_settings(spec: ListenerSpec) -> dict[str, object]:
    """What `NativeSnapshot` takes of a listener, but for what is alive."""
    return {
        "idle_ms": milliseconds(spec.idle_timeout_s),
        "half_close_ms": milliseconds(spec.half_close_timeout_s),
        "half_close": spec.half_close,
        "duration_ms": milliseconds(spec.max_session_duration_s),
        "max_sessions": spec.max_sessions,
        "splice": snapshots.SPLICE_MODES[spec.splice],
        "nodelay": spec.nodelay,
        "deferred": spec.defer_accept_s > 0,
        "requests": spec.udp_requests,
        "responses": spec.udp_responses,
        "one_way": spec.udp_one_way,
        "trains": spec.trains,
        "proxy_accept": _proxy_accept(spec.accept),
    }


def pool_settings(spec: PoolSpec) -> dict[str, object]:
    """What `NativePool` takes of a pool, but for what is alive."""
    return {
        "selection": snapshots.SELECTIONS[spec.selection],
        "usable": array("I", spec.usable),
        "slots": _slots(spec.slots),
        "further": [(array("I", one.usable), _slots(one.slots)) for one in spec.further],
        "bounded_load": spec.bounded_load,
        "connect_timeout_ms": milliseconds(spec.connect_timeout_s) or _MS_MAX,
        "connect_attempts": spec.connect_attempts,
        "retry_pause_ms": milliseconds(spec.retry_pause_s),
        "passive_failures": spec.passive_failures,
        "queue_size": spec.queue_size,
        "queue_timeout_ms": milliseconds(spec.queue_timeout_s) or _MS_MAX,
        "source": sockaddr_bytes(spec.source) if spec.source else b"",
        "transparent": spec.transparent,
        "hash_seed": spec.hash_seed,
        "hash_key": snapshots.HASH_KEYS[spec.hash_key],
        "hash_prefix_v4": spec.hash_prefix_v4,
        "hash_prefix_v6": spec.hash_prefix_v6,
        "proxy_send": _proxy_send(spec.send),
    }


def _slots(slots: Sequence[int]) -> array[int]:
    """Tables as they are, not copied: they are large."""
    return slots if isinstance(slots, array) else array("I", slots)


def _proxy_accept(spec: ProxyAccept | None) -> tuple[int, int, bytes]:
    modes = snapshots.PROXY_MODES
    if spec is None:
        return modes["off"], 0, b""
    mode = modes[f"v{spec.version}" if spec.version else "any"]
    return mode, milliseconds(spec.timeout_s) or _MS_MAX, packed_ranges(spec.trusted)


def _proxy_send(spec: ProxySend | None) -> tuple[int, int, bytes]:
    if spec is None:
        return 0, 0, b""
    tlvs = sum(bit for name, bit in snapshots.PROXY_SEND_TLVS.items() if getattr(spec, name))
    return spec.version, tlvs, spec.own
