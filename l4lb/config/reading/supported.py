"""Keys that the product's contract names and this version does not carry out: each is an error that says so.

One place, to be emptied key by key. Paths are patterns: ``*`` stands for any name.
"""

from __future__ import annotations

LATER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("listeners", "*"): ("when_no_backend",),
    ("pools", "*"): ("discovery",),
}  # fmt: skip


def is_later_key(path: tuple[str | int, ...]) -> bool:
    """True for a key of the contract that this version does not know yet."""
    *above, key = path
    for pattern, keys in LATER.items():
        if len(pattern) != len(above) or key not in keys:
            continue
        if all(part in ("*", str(name)) for part, name in zip(pattern, above, strict=True)):
            return True
    return False
