"""The wheel that others install: built, made fit for other Linuxes, and tried where there is no compiler.

    python tests/wheel_test.py DIRECTORY      `make wheel`

The wheel that stays in DIRECTORY has the tag of the oldest manylinux whose glibc has what it uses: auditwheel finds it
out. cibuildwheel (pyproject.toml) builds the same for every Python in the images of manylinux, whose glibc is older.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

COMPILERS = ("gcc", "cc", "c99", "clang", "g++", "ld")


def run(*command: str | Path, path: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(source: Path, target: Path) -> Path:
    """A clean copy of what is committed and not: no `build/` of before is used."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", path=path, cwd=source)
        for file in filter(None, listed.split("\0")):
            if (source / file).is_file():
                (scratch / "source" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, scratch / "source" / file)
        # Not committed: `make share` has written it.
        shutil.copytree(source / "build/share", scratch / "source/build/share")
        make = "import setuptools.build_meta as b; b.build_wheel('{}')".format(scratch / "plain")
        (scratch / "plain").mkdir()
        run(sys.executable, "-c", make, path=path, cwd=scratch / "source")
        (plain,) = (scratch / "plain").glob("*.whl")
        for earlier in target.glob("*.whl"):
            earlier.unlink()
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", target, plain, path=path, cwd=scratch)
    (wheel,) = target.glob("*.whl")
    return wheel


def check_shared(share: Path, path: str) -> None:
    """What packages put below share/ is there, as it was written; the example is one that its own l4lb takes."""
    root = Path(__file__).resolve().parent.parent
    written = [file for file in (root / "build/share").rglob("*") if file.is_file()]
    origins = {share / file.relative_to(root / "build/share"): file for file in written}
    for folder in ("systemd", "logrotate", "apparmor"):
        origins |= {share / "l4lb" / folder / file.name: file for file in (root / "contrib" / folder).iterdir()}
    origins[share / "l4lb/examples/lb.toml.example"] = root / "lb.toml.example"
    for installed, origin in origins.items():
        if not installed.is_file() or installed.read_bytes() != origin.read_bytes():
            sys.exit(f"{installed} is not {origin}")
    expected = ("man/man1/l4lb-serve.1", "man/man5/lb.toml.5", "bash-completion/completions/l4lb")
    if lacking := [name for name in expected if share / name not in origins]:
        sys.exit(f"`make share` has not written {lacking}")
    run(share.parent / "bin/l4lb", "check", share / "l4lb/examples/lb.toml.example", path=path, cwd=share)


def try_without_compiler(wheel: Path) -> None:
    """In an environment of its own whose PATH has no program but Python's: neither it nor what it needs is compiled."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        venv.create(scratch / "venv", with_pip=True)
        path = str(scratch / "venv/bin")
        if any(shutil.which(compiler, path=path) for compiler in COMPILERS):
            sys.exit(f"there is a compiler in {path}")
        python = scratch / "venv/bin/python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        run(*pip, wheel, path=path, cwd=scratch)
        check_shared(scratch / "venv/share", path=path)
        answers = run(scratch / "venv/bin/l4lb", "demo", "--once", path=path, cwd=scratch)
        if answers.count("10 x hello from backend") != 3:
            sys.exit(f"the demo of the installed wheel does not balance:\n{answers}")


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    wheel = build(root, Path(sys.argv[1]).resolve())
    if "manylinux" not in wheel.name:
        sys.exit(f"{wheel.name} is for this machine alone")
    try_without_compiler(wheel)
    print(f"{wheel.relative_to(Path.cwd())}: built, installed and run without a compiler")


if __name__ == "__main__":
    main()
