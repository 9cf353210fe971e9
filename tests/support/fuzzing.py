"""Builds and runs the fuzzers of the native parsers (`tests/native/fuzz_*.pyx`) with clang's libFuzzer.

As a program (`make fuzz`) it fuzzes each for ten minutes and names what it found; `--keep` adds what reached new code
to the corpus in `tests/corpus`. An input that fails is left in `build/fuzz`.
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
BUILD = ROOT / "build/fuzz"
MAX_BYTES = {"proxy": 5000, "hello": 20000, "quic": 20000}  # by target: of an input
DIRECTIVES = ["boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False"]
# The harness runs without Python, so nothing that the module refers to of Python's is ever reached or needed.
CLANG_OPTIONS = [
    "-O1", "-g", "-std=gnu11", "-fno-omit-frame-pointer", "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=undefined", "-no-pie", "-Wl,--unresolved-symbols=ignore-all",
]  # fmt: skip


def corpus(target: str) -> Path:
    """Where its inputs are kept."""
    return ROOT / "tests/corpus" / target


def build(target: str) -> Path:
    """The fuzzer as a program."""
    clang = require("clang")
    BUILD.mkdir(parents=True, exist_ok=True)
    source, program = BUILD / f"fuzz_{target}.c", BUILD / f"fuzz_{target}"
    directives = [word for directive in DIRECTIVES for word in ("-X", directive)]
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(ROOT), *directives]
    _run([*cython, str(ROOT / f"tests/native/fuzz_{target}.pyx"), "-o", str(source)])
    _run([clang, *CLANG_OPTIONS, "-I", sysconfig.get_path("include"), str(source), "-o", str(program)])
    return program


def _found(target: str) -> Path:
    return BUILD / f"corpus_{target}"


def fuzz(target: str, program: Path, seconds: int) -> str:
    """What the fuzzer says after `seconds`; AssertionError with all of it when an input failed."""
    _found(target).mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES[target]}", "-timeout=5"]
    return _run([str(program), *options, f"-artifact_prefix={BUILD}/", str(_found(target)), str(corpus(target))])


def keep(target: str, program: Path) -> None:
    """Add to the corpus those finds that reach code which nothing in it reaches."""
    _run([str(program), "-merge=1", "-use_counters=0", str(corpus(target)), str(_found(target))])


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
    parser.add_argument("--seconds", type=int, default=600, help="how long, each (600)")
    parser.add_argument("--target", choices=list(MAX_BYTES), action="append", help="which (all)")
    parser.add_argument("--keep", action="store_true", help="add what reached new code to the corpus")
    arguments = parser.parse_args()
    if shutil.which("clang") is None:
        sys.exit("make fuzz needs clang (see `make deps`)")
    for target in arguments.target or MAX_BYTES:
        program = build(target)
        print(target, fuzz(target, program, arguments.seconds)[-2000:])
        if arguments.keep:
            keep(target, program)


if __name__ == "__main__":
    main()
