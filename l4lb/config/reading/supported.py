"""Keys that the product's contract names and this version does not carry out: each is an error that says so.

One place, to be emptied one by one. Paths are patterns: ``*`` stands for any name.
"""

from __future__ import annotations

from collections.abc import Sequence

LATER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("listeners", "*"): ("when_no_backend",),
}  # fmt: skip


def is_later_key(path: tuple[str | int, ...]) -> bool:
    """True for a key of the contract that this version does not know yet."""
    *above, key = path
    return any(_fits(pattern, above) and key in keys for pattern, keys in LATER.items())


def _fits(pattern: Sequence[str], path: Sequence[str | int]) -> bool:
    return len(pattern) == len(path) and all(part in ("*", str(name)) for part, name in zip(pattern, path, strict=True))
