"""Files that a configuration names. Only regular ones: a pipe or a device may never end, or be waited for."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from pathlib import Path

from l4lb.net.files import read_bytes


def decoded(raw: bytes) -> str:
    """Without a byte order mark, and lines end with LF. What is not UTF-8 is read as Latin-1, in which no byte is lost:
    neither program looks at encodings, and most often it is an old comment."""
    data = raw.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_named(path: str | Path, bytes_max: int) -> str:
    """ValueError says why it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return decoded(read_bytes(path, bytes_max=bytes_max))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from None  # a NUL within it
