"""What a mistyped word may have meant."""

from __future__ import annotations

import difflib


def did_you_mean(word: str, known: list[str]) -> str:
    """`` (did you mean "maglev"?)``, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
