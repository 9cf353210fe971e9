"""The help. Pure."""

from __future__ import annotations

import textwrap

from l4lb.cli.top.keys import available
from l4lb.cli.top.state.cells import Line, fitted

_KEY = 8  # columns
_ABOUT = {
    "pools": (
        "Health says why a backend that is up gets no new session: ejected, full (at its max_sessions), no new (see "
        "the note below the list). conn p90 and byte p90 are the times within which nine of ten connects, and first "
        "bytes of answers, came of late; a pool has those of its slowest backend.",
    ),
    "sessions": (
        "The oldest first. In the filter, pool=NAME, backend=ADDRESS, source=ADDRESS or network and listener=NAME are "
        "for the instance to find; other words are looked for in what it has listed, which grows as you scroll.",
    ),
    "sources": ("over counts sessions that were over a limit of per_source. The instance lists the heaviest of them.",),
    "workers": ("busy is the part of its time in which a worker is not waiting.",),
}


def help_lines(pane: str, read_only: bool, width: int) -> list[Line]:
    lines: list[Line] = [[(f"keys in the list of {pane}; Esc: back", "bold reverse")]]
    for one in available(pane, read_only):
        if not one.help:
            continue
        parts = textwrap.wrap(one.help, max(width - _KEY, 10))
        keys = [one.shown, *([""] * (len(parts) - 1))]
        lines += [[(fitted(key, _KEY), "bold"), (part, "")] for key, part in zip(keys, parts, strict=True)]
    for text in _ABOUT.get(pane, ()):
        lines += [[], *([(part, "")] for part in textwrap.wrap(text, max(width, 10)))]
    return lines
