"""Keys and values that the product's contract names and this version does not carry out: each is an error that says so.

One place, to be emptied key by key. Paths are patterns: ``*`` stands for any name.
"""

from __future__ import annotations

LATER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("global",): ("access_log",),
    ("listeners", "*"): (
        "accept_proxy", "proxy_trusted", "proxy_timeout", "allow", "deny", "deny_action", "per_source",
        "udp_responses", "udp_requests", "udp_gro", "routes",
    ),
    ("pools", "*"): (
        "send_proxy", "send_proxy_tlvs", "discovery",
    ),
}  # fmt: skip

LATER_VALUES: dict[str, tuple[str, ...]] = {
    "protocol": ("udp",),
    "source_address": ("client",),
}


def is_later_key(path: tuple[str | int, ...]) -> bool:
    """True for a key of the contract that this version does not know yet."""
    *above, key = path
    for pattern, keys in LATER.items():
        if len(pattern) != len(above) or key not in keys:
            continue
        if all(part in ("*", str(name)) for part, name in zip(pattern, above, strict=True)):
            return True
    return False


def is_later_value(key: str, value: object) -> bool:
    return isinstance(value, str) and value in LATER_VALUES.get(key, ())
