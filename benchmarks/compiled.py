"""The small programs in C that stand beside this file, and in its folders."""

from __future__ import annotations

import atexit
import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.programs import require


@functools.cache
def compiled(name: str, *libraries: str) -> str:
    """The path of `name`.c, compiled; removed when this process ends. Where there is a `name`.bpf.c, for the kernel, it
    is beside that as an object file of the same name."""
    source = Path(__file__).parent / f"{name}.c"
    target = Path(tempfile.mkdtemp(prefix="l4lb-benchmarks-")) / source.stem
    atexit.register(shutil.rmtree, target.parent)
    subprocess.run(["gcc", "-O2", "-o", str(target), str(source), *(f"-l{one}" for one in libraries)], check=True)
    if (for_the_kernel := source.with_suffix(".bpf.c")).exists():
        headers = f"-I/usr/include/{platform.machine()}-linux-gnu"  # where Debian has <asm/types.h>
        command = [require("clang"), "-O2", "-g", "-target", "bpf", "-mcpu=v3", headers, "-c", str(for_the_kernel)]
        subprocess.run([*command, "-o", f"{target}.bpf.o"], check=True)
    return str(target)
