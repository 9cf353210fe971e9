"""Values of both formats as l4lb writes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from l4lb.config.options.units import duration_text
from l4lb.model.durations import MAX_DURATION_S
from l4lb.net.address import parse_address

PARTS_MAX = 256  # of a range of ports, each of which is a listener
TOO_MANY_PARTS = f"the port decides: a listener for each part of the range, and not for more than {PARTS_MAX}"
_BLANKS = {ord(char): None for char in "\r\n\t"}
_BELOW = re.compile(r"\(?(?:\[\^\.\]|\.|\\w|\[\\w-\])[*+]\\\.\)?(\?)?")  # any labels, or one, before a dot
_LABELS = r"(?:[A-Za-z0-9_-]|\\\.)+"
_LITERAL = re.compile(rf"({_LABELS})(?![?*+{{])")
_GROUP = re.compile(rf"\((?:\?:)?({_LABELS}(?:\|{_LABELS})*)\)(\?)?(?![?*+{{])")
_NAMES_MAX = 64  # of an expression


def number(text: str) -> int | None:
    """None for what is no number, or has more digits than anything that is counted."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) else None


def duration(seconds: float) -> float | str:
    """As lb.toml has it; 0, and more than timers count, is off."""
    return duration_text(seconds) if 0 < seconds <= MAX_DURATION_S else "off"


def names_of_regex(pattern: str) -> list[str] | None:
    """The server names of a simple regular expression, such as ``^(.*\\.)?(a|b)\\.example$``; None for all others, and
    for one that would also find a name at the end of a longer one."""
    begins, body = pattern.startswith("^"), pattern.removeprefix("^")
    below = _BELOW.match(body)
    if not body.endswith("$") or not (begins or (below and not below[1])):
        return None
    names = _spelled_out(body[below.end() if below else 0 : -1])
    if not names or not below:
        return names
    return [*(names if below[1] else []), *(f"*.{name}" for name in names)]


def _spelled_out(pattern: str) -> list[str] | None:
    """Of literals, dots with a backslash, and groups of them, which may be optional: every text that matches."""
    names, at = [""], 0
    while at < len(pattern):
        if literal := _LITERAL.match(pattern, at):
            found, at = [literal[1]], literal.end()
        elif group := _GROUP.match(pattern, at):
            found, at = [*group[1].split("|"), *([""] if group[2] else [])], group.end()
        else:
            return None
        names = [before + one.replace("\\.", ".").lower() for before in names for one in found]
        if len(names) > _NAMES_MAX:
            return None
    whole = [name for name in names if name.strip(".") == name and ".." not in name]
    return list(dict.fromkeys(names)) if names == whole and all(names) else None


def joined_binds(addresses: list[str]) -> list[str]:
    """Each once, and ``0.0.0.0:PORT`` only where ``:PORT`` does not take IPv4 too."""
    unique = list(dict.fromkeys(addresses))
    return [one for one in unique if not (one.startswith("0.0.0.0:") and one.removeprefix("0.0.0.0") in unique)]


def ports_of(bind: str) -> tuple[int, int]:
    """Of a listener's address; (0, 0) for one without."""
    try:
        return parse_address(bind).ports
    except ValueError:
        return (0, 0)


def parts_of(bind: str, begins: Collection[int]) -> list[str]:
    """A listener's address by parts of its range of ports, which begin at some of `begins`; none for more than
    `PARTS_MAX`."""
    first, last = ports_of(bind)
    starts = [first, *sorted({port for port in begins if first < port <= last})]
    if len(starts) == 1:
        return [bind]
    if len(starts) > PARTS_MAX:
        return []
    host = bind.rpartition(":")[0]
    ends = [*(start - 1 for start in starts[1:]), last]
    return [f"{host}:{one}" if one == end else f"{host}:{one}-{end}" for one, end in zip(starts, ends, strict=True)]


def is_name(address: str) -> bool:
    """Whether a backend is given by the name of its host."""
    try:
        found = parse_address(address)
    except ValueError:
        return False
    return found.kind == "ip" and ":" not in found.host and re.search(r"[A-Za-z]", found.host) is not None


def bytes_text(data: bytes) -> str:
    """As checks and routes have them: text where it is plain, else ``hex:...``."""
    plain = data.isascii() and data.decode("ascii").translate(_BLANKS).isprintable()
    plain = plain and not data.startswith((b"hex:", b"regex:"))
    return data.decode("ascii") if plain else f"hex:{data.hex()}"
