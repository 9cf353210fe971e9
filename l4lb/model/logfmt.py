"""Formats a value after ``key=`` in a log line: plain, or quoted where it would be ambiguous. Pure."""

from __future__ import annotations

import json


def quoted(value: object) -> str:
    """``10.0.0.1:80``, ``"no answer"``, ``""``: anything not plain is quoted as in JSON, which keeps it on one line."""
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return text if text and plain else json.dumps(text, ensure_ascii=False)
