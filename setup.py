"""Builds the native data plane. Everything else about the package stands in pyproject.toml.

``L4LB_BUILD`` selects the compiler's options, here and nowhere else:

* ``release`` (default): optimised, no assertions
* ``debug``: unoptimised, with symbols and the data plane's assertions
* ``asan``: AddressSanitizer and UndefinedBehaviorSanitizer (run Python with the sanitizer runtimes preloaded)
* ``tsan``: ThreadSanitizer (run Python with its runtime preloaded, and without address randomisation)
* ``coverage``: gcov counters

``L4LB_PROBE=1`` also builds the tests' probe module, which cimports the same headers as the product.
"""

import os
import sys

from setuptools import Extension, setup

if sys.platform != "linux":
    raise SystemExit("l4lb runs on Linux only: it is built on epoll, splice and SO_REUSEPORT.")

from Cython.Build import cythonize

COMMON = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",
    "-fvisibility=hidden",
]
BUILDS: dict[str, tuple[list[str], list[str]]] = {
    "release": (["-O3", "-g1", "-DNDEBUG", "-fno-semantic-interposition"], []),
    "debug": (["-O0", "-g3", "-UNDEBUG", "-DL4LB_DEBUG"], []),
    "asan": (
        [
            "-O1",
            "-g3",
            "-UNDEBUG",
            "-DL4LB_DEBUG",
            "-fno-omit-frame-pointer",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
        ],
        ["-fsanitize=address,undefined"],
    ),
    "tsan": (
        ["-O1", "-g3", "-UNDEBUG", "-DL4LB_DEBUG", "-fno-omit-frame-pointer", "-fsanitize=thread"],
        ["-fsanitize=thread"],
    ),
    "coverage": (["-O0", "-g3", "-UNDEBUG", "--coverage"], ["--coverage"]),
}

build = os.environ.get("L4LB_BUILD", "release")
if build not in BUILDS:
    raise SystemExit(f"L4LB_BUILD={build}: expected one of {', '.join(BUILDS)}")
compile_args, link_args = BUILDS[build]


def native(name: str, source: str) -> Extension:
    return Extension(name, [source], extra_compile_args=COMMON + compile_args, extra_link_args=link_args)


NATIVE = ("_fastpath", "_snapshots", "_sweeps", "_moves", "_algorithms")
extensions = [native(f"l4lb.{name}", f"l4lb/{name}.pyx") for name in NATIVE]
if os.environ.get("L4LB_PROBE") == "1":
    extensions.append(native("_l4lb_probe", "tests/native/probe.pyx"))

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=f"build/cython-{build}",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "auto_pickle": False,
            "autotestdict": False,
        },
    )
)
