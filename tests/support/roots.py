"""Clean roots of Debian, made by debootstrap and kept in `build/roots`, and commands that run in one.

A command has its own mount, process and host name space, and the root as its real `/` (pivot_root): network namespaces
can be made in there. The network is this machine's. Packages come from where this machine's apt and pip get theirs:
that is read at run time, and nothing of it is kept but in the roots.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

HOST = "/run/host"  # in a root: what of this machine's files the configuration of pip names
PIP_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
PASSED = re.compile(r"(PIP|UV)_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CI|(https?|no)_proxy", re.IGNORECASE)
PATHS = re.compile(r"(?<![\w.:/-])(file://)?(/[\w.+/-]+)")
ROLLING = ("sid", "unstable")  # suites without updates and security of their own
PROGRAMS = ("debootstrap", "unshare", "mount", "pivot_root", "apt-get", "apt-config")

PIVOT = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for at in sys dev; do mount --rbind /$at "$root/$at"; done
mount -t tmpfs -o mode=755 run "$root/run"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root{host}$1"; else mkdir -p "$root{host}$(dirname "$1")"; : >"$root{host}$1"; fi
  mount --bind "$1" "$root{host}$1"; shift
done
shift
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l .old
cd /root
exec "$@"
""".replace("{host}", HOST)


def missing() -> list[str]:
    """Programs that it takes, but for those that are there."""
    return [name for name in PROGRAMS if shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") is None]


def _run(*command: str, **options: object) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options)  # type: ignore[call-overload]
    return str(done.stdout)


def _sources(suite: str) -> tuple[str, list[str]]:
    """The mirror that this machine's apt uses, and the lines of sources.list for `suite`: the release, its updates, and
    security where this machine has those from Debian too."""
    listed = _run("apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(RELEASE)", "Created-By: Packages")
    found: dict[str, str] = {}
    for line in listed.splitlines():
        origin, uri, release = line.split("|")
        if origin == "Debian":
            found.setdefault(release.partition("-")[2], uri)
    if "" not in found:
        raise SystemExit("apt here has no mirror of Debian to make a root from")
    parts = [("", suite)]
    if suite not in ROLLING:
        parts += [("updates", f"{suite}-updates"), ("security", f"{suite}-security")]
    return found[""], [f"deb {found[part]} {name} main" for part, name in parts if part in found]


def _apt_acquires() -> str:
    """How apt here gets at its mirrors: proxies, certificates, what it need not check."""
    wanted = re.compile(r"Acquire::((https?|Retries|Check-)\S*) \"[^\"]+\";", re.IGNORECASE)
    return "\n".join(line for line in _run("apt-config", "dump", "Acquire").splitlines() if wanted.match(line)) + "\n"


def made(suite: str, folder: Path) -> Path:
    """The root of `suite`, from before if there is one."""
    root = folder / suite
    if root.exists():
        return root
    mirror, sources = _sources(suite)
    unfinished = folder / f"{suite}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"debootstrap-{suite}.log"
    with log.open("w") as output:
        command = ["debootstrap", "--variant=minbase", suite, str(unfinished), mirror]
        if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
            raise SystemExit(f"debootstrap failed: see {log}")
    (unfinished / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    (unfinished / "etc/apt/apt.conf.d/90l4lb").write_text('APT::Install-Recommends "false";\n' + _apt_acquires())
    unfinished.rename(root)
    return root


def _pip_settings() -> dict[str, str]:
    """What pip's files here say, as its environment; PIP_* itself counts more."""
    settings: dict[str, str] = {}
    for name in PIP_FILES:
        file = configparser.RawConfigParser()
        file.read(os.path.expanduser(name))
        for section in ("global", "install"):
            if file.has_section(section):
                settings |= {f"PIP_{key.upper().replace('-', '_')}": value for key, value in file.items(section)}
    return {name: " ".join(value.split()) for name, value in settings.items()}


def _environment() -> tuple[dict[str, str], list[str]]:
    """What a command in a root is told of packages, and the paths of this machine that it names."""
    settings = _pip_settings() | {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    found = [one for value in settings.values() for one in PATHS.findall(value) if Path(one[1]).exists()]
    named = {path for _, path in found}
    # An index of packages has its files beside it.
    wanted = {str(Path(path).parent) if scheme else path for scheme, path in found}
    paths = [path for path in sorted(wanted) if not any(str(above) in wanted for above in Path(path).parents)]

    def moved(match: re.Match[str]) -> str:
        return match[0].replace(match[2], HOST + match[2]) if match[2] in named else match[0]

    plain = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    told = {name: PATHS.sub(moved, value) for name, value in settings.items()}
    return {**plain, "DEBIAN_FRONTEND": "noninteractive", **told}, paths


def command_in(root: Path, command: str, cwd: str = "/root") -> tuple[list[str], dict[str, str]]:
    """The words and the environment of a process that runs the shell's `command` in `root`. When it is killed, all that
    it started are."""
    environment, paths = _environment()
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    unshare = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--uts"]
    inner = f"hostname newcomer; echo 127.0.0.1 localhost newcomer >/etc/hosts; cd {shlex.quote(cwd)}; {command}"
    return [*unshare, "sh", "-c", PIVOT, "sh", str(root), *paths, "--", "sh", "-c", inner], environment
