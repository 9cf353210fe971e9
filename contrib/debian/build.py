"""The Debian package of this release of Debian and this architecture: ``python3 contrib/debian/build.py dist``, which
is `make deb`.

Built from what is committed and not, in a copy, by dpkg-buildpackage with debian/rules. Its version ends in the release
(0.1.0+deb12): the package depends on the minor version of its Python, so that each release has its own, and that of a
newer release is an upgrade. Its maintainer is DEB_MAINTAINER, "NAME <ADDRESS>", or the author of the latest commit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
CHANGELOG = """l4lb ({version}) unstable; urgency=medium

  * See /usr/share/doc/l4lb/changelog.gz.

 -- {maintainer}  {date}
"""


def output(*command: str) -> str:
    return subprocess.run(command, cwd=SOURCE, check=True, stdout=subprocess.PIPE, text=True).stdout


def release(text: str) -> str:
    """deb12 of os-release(5), ubuntu24.04; debforky where it has no number yet."""
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)', text, re.MULTILINE))
    number = values.get("VERSION_ID") or values.get("VERSION_CODENAME", "")
    return {"debian": "deb"}.get(values["ID"], values["ID"]) + number


def version() -> str:
    (found,) = re.findall(r'__version__ = "(.+)"', (SOURCE / "l4lb/version.py").read_text())
    return f"{found}+{release(Path('/etc/os-release').read_text())}"


def copy_tree(target: Path) -> None:
    for name in filter(None, output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if (SOURCE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, target / name)
    shutil.copytree(target / "contrib/debian", target / "debian")


def write_metadata(debian: Path, seconds: int) -> None:
    date = format_datetime(datetime.fromtimestamp(seconds, UTC))
    maintainer = os.environ.get("DEB_MAINTAINER") or output("git", "log", "-1", "--format=%an <%ae>").strip()
    control = debian / "control"
    control.write_text(control.read_text().replace("@MAINTAINER@", maintainer))
    (debian / "changelog").write_text(CHANGELOG.format(version=version(), maintainer=maintainer, date=date))
    (debian / "rules").chmod(0o755)


def main(target: Path) -> None:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory(prefix="l4lb-deb-") as name:
        tree = Path(name) / "l4lb"
        copy_tree(tree)
        write_metadata(tree / "debian", seconds)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        subprocess.run(["dpkg-buildpackage", "-b", "-us", "-uc"], cwd=tree, env=environment, check=True)
        target.mkdir(parents=True, exist_ok=True)
        for package in Path(name).glob("*.deb"):
            shutil.copy(package, target / package.name)
            print(target / package.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
