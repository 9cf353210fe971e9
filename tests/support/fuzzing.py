"""Builds and runs the fuzzer of the native PROXY codec (`tests/native/fuzz_proxy.pyx`) with clang's libFuzzer.

As a program (`make fuzz`) it fuzzes for ten minutes and names what it found; `--keep` adds what reached new code to the
corpus in `tests/corpus/proxy`. An input that fails is left in `build/fuzz`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.programs import require, without_preload

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/corpus/proxy"
BUILD = ROOT / "build/fuzz"
DIRECTIVES = ["boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False"]
# The harness runs without Python, so nothing that the module refers to of Python's is ever reached or needed.
CLANG_OPTIONS = [
    "-O1", "-g", "-std=gnu11", "-fno-omit-frame-pointer", "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=undefined", "-no-pie", "-Wl,--unresolved-symbols=ignore-all",
]  # fmt: skip


def build() -> Path:
    """The fuzzer as a program."""
    clang = require("clang")
    BUILD.mkdir(parents=True, exist_ok=True)
    source, program = BUILD / "fuzz_proxy.c", BUILD / "fuzz_proxy"
    directives = [word for directive in DIRECTIVES for word in ("-X", directive)]
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(ROOT), *directives]
    _run([*cython, str(ROOT / "tests/native/fuzz_proxy.pyx"), "-o", str(source)])
    _run([clang, *CLANG_OPTIONS, "-I", sysconfig.get_path("include"), str(source), "-o", str(program)])
    return program


def fuzz(program: Path, seconds: int) -> str:
    """What the fuzzer says after `seconds`; AssertionError with all of it when an input failed."""
    found = BUILD / "corpus"
    found.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=5000", "-timeout=5", f"-artifact_prefix={BUILD}/"]
    return _run([str(program), *options, str(found), str(CORPUS)])


def keep(program: Path) -> None:
    """Add to the corpus those finds that reach code which nothing in it reaches."""
    _run([str(program), "-merge=1", "-use_counters=0", str(CORPUS), str(BUILD / "corpus")])


def _run(command: list[str]) -> str:
    environment = without_preload() | {"ASAN_OPTIONS": "", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{said[-8000:]}"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="how long (600)")
    parser.add_argument("--keep", action="store_true", help="add what reached new code to the corpus")
    arguments = parser.parse_args()
    if shutil.which("clang") is None:
        sys.exit("make fuzz needs clang (see `make deps`)")
    program = build()
    print(fuzz(program, arguments.seconds)[-2000:])
    if arguments.keep:
        keep(program)


if __name__ == "__main__":
    main()
