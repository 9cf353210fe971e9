"""Files that a configuration names. Only regular ones: a pipe or a device may never end, or be waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from l4lb.net.files import read_text


def read_named(path: str | Path, bytes_max: int) -> str:
    """ValueError says why it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return read_text(path, bytes_max=bytes_max)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from None  # a NUL within it
