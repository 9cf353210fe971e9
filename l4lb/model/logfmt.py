"""How a value stands after ``key=`` in a line of the log: as it is, or quoted where it could be mistaken. Pure."""

from __future__ import annotations

import json


def quoted(value: object) -> str:
    """``10.0.0.1:80``, ``"no answer"``, ``""``: what is not plain is quoted as JSON does it, and stays on its line."""
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return text if text and plain else json.dumps(text, ensure_ascii=False)
