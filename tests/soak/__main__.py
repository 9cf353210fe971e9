"""`make soak ARGS="--minutes 20"`: everything at once, every byte checked.

Clients of all kinds (one request, many, bulk in each direction, half-closes, slow readers, urgent bytes, PROXY headers
in and out, unix sockets, queues, datagrams, QUIC's ids with changing addresses) go through one `l4lb serve`, while
backends are killed, stopped and made to reset, the file is reloaded, the process upgraded, backends and listeners
drained, sessions ended, and floods come.

Exit 0 when nothing was wrong; otherwise the violations are printed by kind, with what happened around the first of
each.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.running import Result, Soak

DOCUMENT = Path(__file__).parents[2] / "docs" / "soak.md"
HEAD = """# The soak

What `make soak ARGS="--minutes {minutes:g} --write"` found, on {cpus} CPUs, Linux {kernel}. Clients of all kinds go
through one `l4lb serve`, and every byte is compared, while everything that can happen to it happens; `tests/soak/`
says what. A violation is: a byte of another session, a changed byte, a stream that was cut and ended in order, a
session lost although nobody touched its backend, one that is stuck, a counter that does not add up, a leak, a traceback
or an error in the log.

| | |
|---|---|
"""


def write(result: Result, minutes: float) -> None:
    text = HEAD.format(minutes=minutes, cpus=os.cpu_count(), kernel=platform.release().split("-")[0])
    DOCUMENT.write_text(text + "".join(f"| {name} | {value} |\n" for name, value in result.figures()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=None, help="of what happens and when; drawn when not given")
    parser.add_argument("--keep", action="store_true", help="keep the directory with configuration and log")
    parser.add_argument("--write", action="store_true", help=f"write the figures to {DOCUMENT.name} in docs/")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="l4lb-soak-"))
    directory.chmod(0o755)
    try:
        result = Soak(directory, seed).run(options.minutes * 60)
    finally:
        if options.keep:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    for title, value in result.figures():
        print(f"{title}: {value}")
    for what, count in sorted(result.judge.excused.items()):
        print(f"  with a cause: {what}: {count}")
    print(result.judge.summary())
    if options.write:
        write(result, options.minutes)
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
