"""How large and how deep a configuration may be: what parses it needs time that grows faster than the text, and calls
itself for each level. No configuration that anybody means comes near. Pure, but for reading the file."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from l4lb.errors import ConfigError, Problem
from l4lb.net.files import read_bytes

FILE_BYTES_MAX = 4 << 20
DEPTH_MAX = 32  # of tables and lists within each other, and parts of a dotted key
_DEEPER = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*+"'
    r"|'[^'\n]*+'"
    r"|#[^\n]*+"
    r"|[\[\]{}.=,\n]",
    re.DOTALL,
)


def read_text(path: Path) -> str:
    """ConfigError for what cannot be read, is no text, or is larger than FILE_BYTES_MAX."""
    try:
        raw = read_bytes(path, bytes_max=FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", str(path))]) from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError([Problem("", "not UTF-8: it is UTF-16, by its byte order mark", str(path))])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"not UTF-8 (byte {error.start})", str(path))]) from None


def check_text(text: str, file: str) -> None:
    """ConfigError, with the line, for a text that is not looked at any closer."""
    if text.startswith("\ufeff"):
        message = "begins with a byte order mark (U+FEFF), which TOML does not have: save it without"
        raise ConfigError([Problem("", message, file, 1)])
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError([Problem("", f"larger than {FILE_BYTES_MAX >> 20} MiB", file)])
    if (at := _too_deep(text)) >= 0:
        message = f"more than {DEPTH_MAX} levels of tables, lists or dotted keys within each other"
        raise ConfigError([Problem("", message, file, text.count("\n", 0, at) + 1)])


def _too_deep(text: str) -> int:
    """Where it is so first; -1 when it is nowhere."""
    brackets = dots = 0
    for match in _DEEPER.finditer(text):
        match match[0]:
            case "[" | "{":
                brackets, dots = brackets + 1, 0
            case "]" | "}":
                brackets, dots = max(brackets - 1, 0), 0
            case ".":
                dots += 1
            case "=" | "," | "\n":
                dots = 0
        if brackets + dots > DEPTH_MAX:
            return match.start()
    return -1
