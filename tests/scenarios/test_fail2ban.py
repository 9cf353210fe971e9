"""Debian's fail2ban bans at l4lb who tries passwords at an nginx behind it, with the files of examples/fail2ban."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.programs import free_port, l4lb, program, require, run, without_preload
from tests.support.waiting import wait_until

EXAMPLE = Path("examples/fail2ban")
HERE, THERE = "127.0.0.1", "127.0.0.2"
STOCK = Path("/etc/fail2ban")
OURS = """
[Definition]
loglevel = DEBUG
logtarget = {dir}/fail2ban.log
socket = {dir}/fail2ban.sock
pidfile = {dir}/fail2ban.pid
dbfile = None
"""
NGINX = """
daemon off; master_process off;
user root;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{}}
http {{
    access_log off;
    {temporary}
    {site}
}}
"""
TEMPORARY = "".join(
    f"{kind}_temp_path {{dir}}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def status_of(address: tuple[str, int], source: str, password: str) -> int:
    """The status of a request with that password; 0 when the client is refused."""
    command = [require("curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", source, "-m", "20"]
    url = f"http://{address[0]}:{address[1]}/"
    done = subprocess.run(
        [*command, "-u", f"member:{password}", url], env=without_preload(), capture_output=True, text=True
    )
    return int(done.stdout)


@contextlib.contextmanager
def site(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    (tmp_path / "members").write_text("member:{PLAIN}right\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / "index.html").write_text("welcome\n")
    text = (EXAMPLE / "nginx.conf").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    text = text.replace("/etc/nginx/members", f"{tmp_path}/members").replace(
        "location / {", f"root {root}; location / {{"
    )
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX.format(dir=tmp_path, temporary=TEMPORARY.format(dir=tmp_path), site=text))
    with program("nginx", ["-c", str(conf), "-p", str(tmp_path)], port, tmp_path / "nginx.log"):
        yield port


@contextlib.contextmanager
def fail2ban(tmp_path: Path) -> Iterator[None]:
    server = require("fail2ban-server")
    conf = tmp_path / "fail2ban"
    for folder in ("action.d", "filter.d"):
        shutil.copytree(STOCK / folder, conf / folder)
    for file in ("fail2ban.conf", "jail.conf", "paths-common.conf", "paths-debian.conf"):
        shutil.copy(STOCK / file, conf)
    (conf / "fail2ban.local").write_text(OURS.format(dir=tmp_path))
    shutil.copy(EXAMPLE / "action.d/l4lb.conf", conf / "action.d")
    jail = (EXAMPLE / "jail.local").read_text().replace("/var/log/nginx/error.log", f"{tmp_path}/error.log")
    jail += "ignoreself = false\n"
    jail = jail.replace("%(banaction)s", f'l4lb[options="--admin unix:{tmp_path}/admin"]')
    (conf / "jail.local").write_text(jail)
    command = [server, "-c", str(conf), "-f", "start"]
    with (tmp_path / "fail2ban.out").open("wb") as out:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # with l4lb
        process = subprocess.Popen(command, env={**without_preload(), "PATH": path}, stdout=out, stderr=out)
    try:
        log = tmp_path / "fail2ban.log"
        started = wait_until(lambda: log.exists() and "Jail 'nginx-http-auth' started" in log.read_text(), 60)
        assert started, (tmp_path / "fail2ban.out").read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.external
def test_who_tries_passwords_is_kept_out_until_the_ban_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    with site(tmp_path) as port:
        text = (EXAMPLE / "lb.toml").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        file.write_text(text.replace('":80"', '"127.0.0.1:0"').replace("/var/lib/l4lb", str(tmp_path)))
        with (
            l4lb("serve", "-c", str(file), "--admin", f"unix:{tmp_path}/admin") as process,
            fail2ban(tmp_path),
            Client(f"unix:{tmp_path}/admin") as client,
        ):
            process.wait_for("backend up")
            target = process.address("site")
            assert status_of(target, THERE, "right") == 200
            for _ in range(3):
                assert status_of(target, THERE, "wrong") == 401
            process.wait_for("banned source=127.0.0.2/32 reason=.fail2ban nginx-http-auth.", 60)
            (ban,) = client.bans.list()
            assert (ban["cidr"], ban["reason"]) == ("127.0.0.2/32", "fail2ban nginx-http-auth")
            assert 3590 < ban["until"] - ban["since"] <= 3600
            assert status_of(target, THERE, "right") == 0
            assert status_of(target, HERE, "right") == 200
            # Until its command has ended, fail2ban takes the client for one that needs no unban.
            log = tmp_path / "fail2ban.log"
            ended = re.compile("127.0.0.2/32: banned for .*returned successfully", re.DOTALL)
            assert wait_until(lambda: ended.search(log.read_text()), 60), log.read_text()
            run("fail2ban-client", "-s", f"{tmp_path}/fail2ban.sock", "set", "nginx-http-auth", "unbanip", THERE)
            process.wait_for("unbanned source=127.0.0.2/32")
            assert status_of(target, THERE, "right") == 200
            assert client.bans.list() == []
    said = (tmp_path / "fail2ban.log").read_text()
    assert "[nginx-http-auth] Ban 127.0.0.2" in said
    assert "ERROR" not in said, said
