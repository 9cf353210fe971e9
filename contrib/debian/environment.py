"""Makes a virtual environment fit for the place where the package has it: ``python environment.py BUILT INSTALLED``.

What is left of the place where it was built would be a dangling path, and make each build another one.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PROGRAMS = ("l4lb", "python", "python3")  # what else is there belongs to libraries
CONFIGURATION = "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}.{}.{}\n"


def finish(built: Path, installed: str) -> None:
    for program in (built / "bin").iterdir():
        if program.name not in PROGRAMS:
            program.unlink()
    command = built / "bin/l4lb"
    command.write_text(re.sub(r"\A#!.*", f"#!{installed}/bin/python3", command.read_text()))
    (built / "pyvenv.cfg").write_text(CONFIGURATION.format(*sys.version_info))
    for needless in ("include", "lib64", "share", ".gitignore"):
        path = built / needless
        path.unlink(missing_ok=True) if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    (packages,) = built.glob("lib/python3*/site-packages")
    for record in packages.glob("*.dist-info/*"):
        if record.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):  # pip's own; dpkg does that here
            record.unlink()
    refuse_leftovers(built)


def refuse_leftovers(built: Path) -> None:
    text = str(built.resolve()).encode()
    found = [file for file in built.rglob("*") if file.is_file() and text in file.read_bytes()]
    if found:
        raise SystemExit(f"{found[0]} names {built}")


if __name__ == "__main__":
    finish(Path(sys.argv[1]), sys.argv[2])
