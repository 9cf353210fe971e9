"""A configuration as it may be shown: what is secret in it is masked. Pure."""

from __future__ import annotations

import re
from typing import Any

from l4lb.config.config import Config

MASK = "***"
# Names of keys, and of HTTP headers, whose values are secrets. A file's name is none: token_file.
_SECRET = re.compile(
    r"(authorization|cookie|token|secret|passw(or)?d|api[-_]?key|credential)(?!.*_file$)", re.IGNORECASE
)


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key, inner) else _mask(inner) for key, inner in value.items()}
    return [_mask(inner) for inner in value] if isinstance(value, list) else value


def _is_secret(key: object, value: Any) -> bool:
    return bool(value) and isinstance(value, str) and _SECRET.search(str(key)) is not None


def masked(config: Config) -> dict[str, Any]:
    """`config` as plain JSON values."""
    shown: dict[str, Any] = _mask(config.model_dump(mode="json", by_alias=True))
    return shown
