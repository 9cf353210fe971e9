"""The sdist builds, a wheel built from it installs into a fresh environment, and the installed command works.

Run as a program (`make package-test`): it takes a while and needs nothing of pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = scratch / "source"
        run("git", "clone", "--quiet", str(root), str(source))
        build = "import setuptools.build_meta as b; print(b.build_sdist('{}'))"
        run(sys.executable, "-c", build.format(scratch), cwd=source)
        (sdist,) = scratch.glob("*.tar.gz")
        venv.create(scratch / "venv", with_pip=True)
        python = str(scratch / "venv/bin/python")
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(sdist), cwd=scratch)
        answers = run(str(scratch / "venv/bin/l4lb"), "demo", "--once", cwd=scratch)
        if answers.count("10 x hello from backend") != 3:
            sys.exit(f"the installed demo does not balance:\n{answers}")
        run(str(scratch / "venv/bin/l4lb"), "schema", cwd=scratch)
        page = "from l4lb.control.admin.page import FILES; print(len(FILES) + 1)"
        if int(run(python, "-c", page, cwd=scratch)) != len(list((root / "l4lb/control/admin/dashboard").iterdir())):
            sys.exit("the installed dashboard lacks files")
    print("sdist: built, installed and run")


if __name__ == "__main__":
    main()
