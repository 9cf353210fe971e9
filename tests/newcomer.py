"""What the README promises to a newcomer, on machines that have nothing yet: clean roots of Debian, with its Python.

    python3 tests/newcomer.py [--only-unit] [bookworm trixie]      as root; `make newcomer`

In each root: a fresh clone of what is committed, under root's own home, which nobody else may enter. Then `make demo`,
whatever it says that is missing, `make demo` again until curl gets an answer; `make deps`; `make test`. How long each
took is printed, and kept in `build/roots/times.txt`. Roots are kept: a second run does not install Debian again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.roots import command_in, made, missing

SOURCE = Path(__file__).resolve().parent.parent
ROOTS = SOURCE / "build/roots"
SUITES = ("bookworm", "trixie")
CLONE = "/root/l4lb"


class Newcomer:
    """In one root, with a log of all that was printed."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.root = made(suite, ROOTS)
        self.log = ROOTS / f"{suite}.log"
        self.log.write_text("")

    def start(self, command: str, output: IO[str] | int) -> subprocess.Popen[str]:
        cwd = CLONE if (self.root / CLONE[1:]).exists() else "/root"
        words, environment = command_in(self.root, command, cwd)
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command: str) -> float:
        """How long it took; ends this program when it failed."""
        began = time.monotonic()
        with self.log.open("a") as output:
            process = self.start(command, output)
            try:
                code = process.wait()
            finally:
                process.kill()  # and all that it started, when this program was interrupted
        if code:
            self.give_up(f"`{command}` failed with {code}")
        return time.monotonic() - began

    def give_up(self, why: str) -> None:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])
        sys.exit(f"{tail}\n\n{self.suite}: {why}; all of it in {self.log}")

    def clone(self) -> None:
        """What is committed here. Root's home is closed to others, as Debian makes it."""
        clone = self.root / CLONE[1:]
        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.chmod(0o700)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(SOURCE), str(clone)], check=True)

    @contextmanager
    def printing(self, command: str) -> Iterator[Iterator[str]]:
        """The lines that it prints, until they are no longer wanted."""
        process = self.start(command, subprocess.PIPE)
        try:
            yield self._lines(process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def _lines(self, process: subprocess.Popen[str]) -> Iterator[str]:
        assert process.stdout is not None
        with self.log.open("a") as output:
            for line in process.stdout:
                output.write(line)
                output.flush()
                yield line.rstrip("\n")

    def demo(self) -> float:
        """Seconds until curl had an answer through the balancer. What is missing is installed with the command that
        `make demo` prints, and the clock begins anew."""
        for _ in range(2):
            began = time.monotonic()
            with self.printing("make demo") as lines:
                for line in lines:
                    if found := re.search(r"  (curl http://\S+/) ", line):
                        self.run(f"{found[1]} --silent --fail")
                        return time.monotonic() - began
                    if found := re.fullmatch(r"\s*(apt-get install -y .*)", line):
                        self.run(f"apt-get update && {found[1]}")
                        break
        self.give_up("`make demo` does not run")
        raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=SUITES, metavar="SUITE", help="of Debian; bookworm, trixie")
    parser.add_argument("--only-unit", action="store_true", help="`make unit` in place of `make test`")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or missing():
        sys.exit(f"newcomer: makes roots, as root; missing: {' '.join(missing()) or 'root'}")
    tests = "make unit" if arguments.only_unit else "make test"
    report = []
    for suite in arguments.suites:
        one = Newcomer(suite)
        one.run("apt-get update && apt-get install -y ca-certificates curl git make")
        one.clone()
        times = {"make demo": one.demo(), "make deps": one.run("make deps"), tests: one.run(tests)}
        python = one.run("python3 --version") and one.log.read_text().splitlines()[-1]
        report.append(f"{suite} ({python}): " + ", ".join(f"{what} {took:.0f} s" for what, took in times.items()))
        print(report[-1], flush=True)
    (ROOTS / "times.txt").write_text("\n".join(report) + "\n")


if __name__ == "__main__":
    main()
