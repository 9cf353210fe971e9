"""Builds the native data plane. Everything else about the package stands in pyproject.toml.

``L4LB_BUILD`` selects the compiler's options, here and nowhere else:

* ``release`` (default): optimised, no assertions
* ``debug``: unoptimised, with symbols and the data plane's assertions
* ``asan``: AddressSanitizer and UndefinedBehaviorSanitizer (run Python with the sanitizer runtimes preloaded)
* ``tsan``: ThreadSanitizer (run Python with its runtime preloaded, and without address randomisation)
* ``coverage``: gcov counters
* ``none``: nothing native. The Makefile installs what is Python so, while it builds in place beside it.

Forwarding in the kernel (``l4lb/_kernel``) is built where clang and libbpf are; without them l4lb is built without it.

Below share/ the wheel has units, examples and, once `make share` has written them, man pages and completions.

``L4LB_PROBE=1`` also builds the tests' probe modules, which cimport the same headers as the product. Modules are built
side by side, as many as this process may use CPUs.
"""

import gc
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if sys.platform != "linux":
    raise SystemExit("l4lb runs on Linux only: it is built on epoll, splice and SO_REUSEPORT.")

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

# How far a release build optimises. Workers run only what is in the first one. Tables are built as fast with -O2 as
# with -O3, which takes the compiler twice as long; the others do little.
NATIVE = {
    "l4lb._fastpath": "-O3",
    "l4lb._native.algorithms": "-O2",
    "l4lb._native.snapshots": "-O1",
    "l4lb._native.routes": "-O1",
    "l4lb._native.sweeps": "-O1",
    "l4lb._native.migration": "-O1",
    "l4lb._native.tcp_migration": "-O1",
    "l4lb._native.counted": "-O1",
    "l4lb._native.times": "-O1",
    "l4lb._native.hooks": "-O2",
}
KERNEL_MODULES = ("l4lb._native.kernel", "l4lb._native.kernel_flows")
KERNEL_PROGRAMS = {"xdp": [], "tcx": ["-DTCX"]}
KERNEL_SOURCE = "l4lb/_kernel/balance.bpf.c"
KERNEL_LAYOUT = "l4lb/_kernel/layout.h"
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "auto_pickle": False,
    "autotestdict": False,
}


def native_modules(build: str) -> list[Extension]:
    compile_args, link_args = BUILDS[build]
    sources = {name: f"{name.replace('.', '/')}.pyx" for name in NATIVE}
    if os.environ.get("L4LB_PROBE") == "1":
        sources["_l4lb_probe"] = "tests/native/probe.pyx"
        sources["_l4lb_probe_worker"] = "tests/native/probe_worker.pyx"
    if kernel_can_be_built():
        sources |= {name: f"{name.replace('.', '/')}.pyx" for name in KERNEL_MODULES}
    return [
        Extension(
            name,
            [source],
            libraries=["bpf"] if name in KERNEL_MODULES else [],
            include_dirs=["l4lb/_kernel"] if name in KERNEL_MODULES else [],
            define_macros=[("L4LB_LAYOUT", f'"{layout_digest()}"')] if name in KERNEL_MODULES else [],
            optional=name in KERNEL_MODULES,
            extra_compile_args=COMMON + [NATIVE.get(name, one) if one == "-O3" else one for one in compile_args],
            extra_link_args=link_args,
        )
        for name, source in sources.items()
    ]


def kernel_can_be_built() -> bool:
    return shutil.which("clang") is not None and any(map(os.path.exists, LIBBPF))


def layout_digest() -> str:
    """Of what is in the programs' maps: a process that takes them over has to mean the same by it."""
    return hashlib.sha256(Path(KERNEL_LAYOUT).read_bytes()).hexdigest()[:16]


def build_kernel_programs(directory: Path) -> None:
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"  # where Debian has <asm/types.h>
    for name, options in KERNEL_PROGRAMS.items():
        command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", headers]
        done = subprocess.run([*command, *options, "-c", KERNEL_SOURCE, "-o", str(directory / f"{name}.o")])
        if done.returncode:
            print("l4lb is built without forwarding in the kernel: clang failed", file=sys.stderr)


class BuildNative(build_ext):
    """Runs Cython when something is built: pip also asks for the metadata, twice, for which nobody needs C."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = JOBS

    def run(self) -> None:
        from Cython.Build import cythonize

        gc.disable()  # Cython makes large trees and drops them at the end: collecting takes 40 % of its time
        made = cythonize(
            self.extensions,
            build_dir=f"build/cython-{BUILD}",
            nthreads=JOBS,
            quiet=True,
            compiler_directives=DIRECTIVES,
        )
        for module, translated in zip(self.extensions, made, strict=True):
            assert module.name == translated.name
            module.sources, module.depends = translated.sources, translated.depends
            if module.name in KERNEL_MODULES:
                module.depends = [*module.depends, KERNEL_LAYOUT]
        super().run()
        if any(module.name in KERNEL_MODULES for module in self.extensions):
            build_kernel_programs(Path(self.get_ext_fullpath(KERNEL_MODULES[0])).parent.parent / "_kernel")


def shared_files() -> list[tuple[str, list[str]]]:
    """(folder, files) below the prefix of an installation. What is not in this tree is left out: the image is built
    from less than all."""
    found = [(f"share/l4lb/{name}", glob.glob(files)) for name, files in SHARED.items()]
    generated = [Path(name) for name in glob.glob("build/share/**", recursive=True) if Path(name).is_file()]
    found += [(str("share" / file.parent.relative_to("build/share")), [str(file)]) for file in generated]
    return [(folder, sorted(files)) for folder, files in found if files]


SHARED = {
    "systemd": "contrib/systemd/*",
    "logrotate": "contrib/logrotate/*",
    "apparmor": "contrib/apparmor/*",
    "examples": "lb.toml.example",
}
LIBBPF = ("/usr/include/bpf/libbpf.h", "/usr/local/include/bpf/libbpf.h")
BUILD = os.environ.get("L4LB_BUILD", "release")
JOBS = len(os.sched_getaffinity(0))


def main() -> None:
    if BUILD != "none" and BUILD not in BUILDS:
        raise SystemExit(f"L4LB_BUILD={BUILD}: expected one of {', '.join(BUILDS)}, none")
    modules = [] if BUILD == "none" else native_modules(BUILD)
    commands = {"build_ext": BuildNative} if modules else {}
    setup(ext_modules=modules, cmdclass=commands, data_files=shared_files())


if __name__ == "__main__":  # Cython's own processes may import this file
    main()
