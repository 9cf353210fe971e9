"""The small programs in C that stand beside this file."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def compiled(name: str) -> str:
    """The path of `name`.c, compiled; removed when this process ends."""
    target = Path(tempfile.mkdtemp(prefix="l4lb-benchmarks-")) / name
    atexit.register(shutil.rmtree, target.parent)
    subprocess.run(["gcc", "-O2", "-o", str(target), str(Path(__file__).with_name(f"{name}.c"))], check=True)
    return str(target)
