"""The programs that l4lb is compared with, of a newer Debian than this machine's: `make peers`, as root.

    python3 -m benchmarks.newer [SUITE]      `stable` by default; `sid` has the latest

They stay in a root of their own in `build/peers` and run from there on this machine's kernel, each by that root's own
loader and libraries. Without such a root, the benchmarks take the programs of this machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.roots import command_in, made, missing

FOLDER = Path(__file__).parent.parent / "build/peers"
CURRENT = FOLDER / "current"  # a link to the root of the suite that was asked for last
PACKAGES = "haproxy nginx libnginx-mod-stream dnsdist"
NGINX_STREAM = "usr/lib/nginx/modules/ngx_stream_module.so"


def install(suite: str) -> None:
    """Make the root of `suite`, or bring the one that is there up to date."""
    root = made(suite, FOLDER)
    words, environment = command_in(root, f"apt-get update && apt-get install -y {PACKAGES}")
    log = FOLDER / f"{suite}.log"
    with log.open("w") as output:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        sys.exit(f"peers: apt-get failed in {root}: see {log}")
    CURRENT.unlink(missing_ok=True)
    CURRENT.symlink_to(suite)


def find(name: str) -> list[str]:
    """What runs the program `name`: of the newer Debian where that has it, else of this machine; [] without both."""
    for place in ("usr/sbin", "usr/bin"):
        if (path := CURRENT / place / name).exists():
            root = CURRENT.resolve()
            (loader,) = root.glob("usr/lib/*/ld-linux-*.so.*")
            return [str(loader), "--library-path", str(loader.parent), str(path.resolve())]
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return [found] if found else []


def command(name: str) -> list[str]:
    """The same, for a benchmark that cannot do without: it is skipped."""
    import pytest  # which the Python that makes the root need not have

    words = find(name)
    if not words:
        pytest.skip(f"{name} is not installed (see `make deps` and `make peers`)")
    return words


def nginx_stream_module() -> Path | None:
    """The module of the nginx that `command` runs; None when it is compiled in."""
    newer, own = CURRENT.resolve() / NGINX_STREAM, Path("/") / NGINX_STREAM
    if (CURRENT / "usr/sbin/nginx").exists():
        return newer if newer.exists() else None
    return own if own.exists() else None


def origin() -> str:
    """Which Debian the compared programs are from, for the results."""
    release = CURRENT / "etc/os-release" if CURRENT.exists() else Path("/etc/os-release")
    name = re.search(r'^PRETTY_NAME="(.*)"$', release.read_text(), re.MULTILINE)
    what = name[1] if name else "an unknown system"
    return f"{what}, from `make peers`" if CURRENT.exists() else f"{what}, this machine's own; `make peers` gets newer"


if __name__ == "__main__":
    if missing():
        sys.exit(f"peers: makes a root of Debian, as root; missing: {' '.join(missing())}")
    install(sys.argv[1] if len(sys.argv) > 1 else "stable")
    for program in ("haproxy", "nginx", "dnsdist"):
        option = "--version" if program == "dnsdist" else "-v"
        done = subprocess.run(
            [*command(program), option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        print(done.stdout.splitlines()[0])
