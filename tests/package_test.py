"""The sdist builds; what the Dockerfile does with it makes a wheel, which installs into a fresh environment; and the
installed command works.

Run as a program (`make package-test`): it takes a while and needs nothing of pytest.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.dockerfile import commands, copied


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def install_as_the_dockerfile_does(sdist: Path, scratch: Path) -> None:
    """Its `pip` commands, on the files that it copies, from the sdist; into `scratch`/venv."""
    (scratch / "sdist").mkdir()
    run("tar", "-xzf", str(sdist), "-C", str(scratch / "sdist"))  # tarfile differs from patch release to patch release
    (unpacked,) = (scratch / "sdist").iterdir()
    (scratch / "image").mkdir()
    for name in copied():
        copy = shutil.copytree if (unpacked / name).is_dir() else shutil.copy
        copy(unpacked / name, scratch / "image" / name)
    venv.create(scratch / "venv", with_pip=True)
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    found = commands("pip")
    assert len(found) == 2, found
    for command in found:
        words = [word.replace("/wheels", f"{scratch}/wheels") for word in shlex.split(command)]
        run(str(scratch / "venv/bin" / words[0]), *words[1:], cwd=scratch / "image")


def main() -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = scratch / "source"
        run("git", "clone", "--quiet", str(root), str(source))
        build = "import setuptools.build_meta as b; print(b.build_sdist('{}'))"
        run(sys.executable, "-c", build.format(scratch), cwd=source)
        (sdist,) = scratch.glob("*.tar.gz")
        install_as_the_dockerfile_does(sdist, scratch)
        answers = run(str(scratch / "venv/bin/l4lb"), "demo", "--once", cwd=scratch)
        if answers.count("10 x hello from backend") != 3:
            sys.exit(f"the installed demo does not balance:\n{answers}")
        run(str(scratch / "venv/bin/l4lb"), "schema", cwd=scratch)
        top = subprocess.run([str(scratch / "venv/bin/l4lb"), "top"], capture_output=True, text=True, check=False)
        if (top.returncode, top.stderr) != (1, "l4lb: top needs a terminal; `l4lb status` prints the same once\n"):
            sys.exit(f"l4lb top without a terminal: {top}")
        page = "from l4lb.control.admin.page import FILES; print(len(FILES) + 1)"
        installed = str(scratch / "venv/bin/python")
        here = [one for one in (root / "l4lb/control/admin/dashboard").rglob("*") if one.is_file()]
        if int(run(installed, "-c", page, cwd=scratch)) != len(here):
            sys.exit("the installed dashboard lacks files")
    print("sdist: built, installed and run")


if __name__ == "__main__":
    main()
