"""contrib/debian, as far as it needs no build: its configuration starts; its unit and rules are those of contrib, for
the user that it makes. `make deb-test` installs the package.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.peers import connect, echo, serving
from tests.support.programs import free_port, l4lb, require, run

pytestmark = pytest.mark.external

DEBIAN = Path("contrib/debian")


def module(name: str) -> ModuleType:
    """A program of contrib/debian, which is no package."""
    found = importlib.util.spec_from_file_location(name, DEBIAN / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As in a build, once settings.py has run: debian/ beside contrib/."""
    shutil.copytree("contrib", tmp_path / "contrib")
    shutil.copytree(DEBIAN, tmp_path / "debian")
    subprocess.run([sys.executable, "debian/settings.py"], cwd=tmp_path, check=True)
    return tmp_path


def test_the_first_configuration_has_no_mistake_and_serves(tmp_path: Path) -> None:
    text = (DEBIAN / "lb.toml").read_text()
    with serving(echo) as one:
        port = free_port()
        changed = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("127.0.0.1:80", one.address)
        assert changed.count(one.address) == 1
        (tmp_path / "lb.toml").write_text(changed)
        with l4lb("serve", "-c", str(tmp_path / "lb.toml")) as process:
            process.wait_for("backend up")
            with connect(f"127.0.0.1:{port}") as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"


def test_what_it_suggests_is_right_too(tmp_path: Path) -> None:
    """Options that are commented out are ones that l4lb takes, in directories that the unit makes."""
    text = re.sub(r"^#(\w+ = )", r"\1", (DEBIAN / "lb.toml").read_text(), flags=re.MULTILINE)
    assert re.findall(r'= "/var/(\w+)/l4lb/', text) == ["lib", "log"]
    unit = Path("contrib/systemd/l4lb.service").read_text()
    assert "\nStateDirectory=l4lb\n" in unit
    assert "\nLogsDirectory=l4lb\n" in unit
    (tmp_path / "lb.toml").write_text(text.replace("/var/", f"{tmp_path}/"))
    with l4lb("check", str(tmp_path / "lb.toml")) as process:
        assert process.wait() == 0


def test_its_unit_is_contribs_for_its_user(tree: Path) -> None:
    ours = (tree / "debian/l4lb.service").read_text()
    assert "User=l4lb\nGroup=l4lb\n" in ours
    theirs = (tree / "contrib/systemd/l4lb.service").read_text()
    theirs = theirs[theirs.index("[Unit]") :].replace("DynamicUser=yes", "User=l4lb\nGroup=l4lb")
    assert re.sub(r"^(Exec\w+=)/usr/bin/l4lb ", r"\1l4lb ", ours, flags=re.MULTILINE) == theirs
    program = Path(sys.executable).with_name("l4lb")
    checked = tree / "l4lb.service"
    # verify asks whether the user is there, too: here that is the package's matter.
    users = re.sub(r"^(User|Group)=l4lb$", r"\1=root", ours, flags=re.MULTILINE)
    checked.write_text(users.replace("=/usr/bin/l4lb ", f"={program} "))
    run("systemd-analyze", "verify", "--man=no", str(checked))
    said = run("systemd-analyze", "security", "--offline=yes", "--threshold=30", str(tree / "debian/l4lb.service"))
    match = re.search(r"exposure level for l4lb.service: ([\d.]+)", said)
    assert match, said
    assert float(match[1]) <= 2.0


@pytest.mark.parametrize("name", ["l4lb.service", "l4lb.l4lb-announce.service"])
def test_its_units_run_its_own_command(name: str, tree: Path) -> None:
    """Not one in /usr/local, which systemd would find first: systemd.service(5), "Command lines"."""
    programs = re.findall(r"^Exec\w+=(\S*l4lb) ", (tree / "debian" / name).read_text(), re.MULTILINE)
    assert programs == ["/usr/bin/l4lb"] * 2


def test_logrotate_takes_its_rules(tree: Path) -> None:
    rules = tree / "debian/l4lb.logrotate"
    text = rules.read_text()
    assert "\tsu l4lb l4lb\n" in text
    rules.write_text(text.replace("su l4lb l4lb", "su root root"))  # a user that is there
    rules.chmod(0o644)
    done = subprocess.run([require("logrotate"), "--debug", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_change_of_contrib_that_it_would_miss_ends_the_build(tree: Path) -> None:
    unit = tree / "contrib/systemd/l4lb.service"
    unit.write_text(unit.read_text().replace("DynamicUser=yes", "DynamicUser=true"))
    done = subprocess.run([sys.executable, "debian/settings.py"], cwd=tree, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "systemd/l4lb.service: 'DynamicUser=yes\\n' is there 0 times, expected once\n",
    )


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n', "deb12"),
        ("ID=debian\nVERSION_CODENAME=forky\n", "debforky"),
        ('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\n', "ubuntu24.04"),
    ],
)
def test_its_version_names_the_release(text: str, release: str) -> None:
    assert module("build").release(text) == release


@pytest.mark.parametrize("name", ["l4lb.postinst", "l4lb.prerm", "l4lb.postrm"])
def test_its_scripts_are_shell(name: str) -> None:
    text = (DEBIAN / name).read_text()
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert text.count("#DEBHELPER#") == 1
    run("sh", "-n", str(DEBIAN / name))


NOTICES = """
   2. Grant of Copyright License. Subject to the terms
      copyright license to reproduce
   Copyright [yyyy] [name of copyright owner]
   "Licensor" shall mean the copyright owner
   Copyright 2013-2019 One and Two

Copyright (c) 2020, Three <a@b.example>.
# Copyright © Four
THE COPYRIGHT HOLDERS
"""


def test_the_copyright_of_libraries_is_what_their_texts_say(tmp_path: Path) -> None:
    folder = tmp_path / "lib/python3.11/site-packages/one-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Name: one\nVersion: 1.0\nAuthor: Five\nLicense: MIT\n")
    said = module("notices").stanza
    assert "\nCopyright: Five\nLicense: one-1.0\n MIT\n" in said(folder, tmp_path)
    (folder / "LICENSE").write_text(NOTICES)
    holders = "2013-2019 One and Two\n 2020, Three <a@b.example>\n Four"
    assert f"\nCopyright: {holders}\nLicense: one-1.0\n MIT\n The text is in /usr/lib/l4lb/lib/" in said(
        folder, tmp_path
    )
