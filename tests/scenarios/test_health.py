"""Checks that talk, in a running `l4lb`: a server that hangs is down for them, and up for a handshake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import l4lb
from tests.support.servers import nginx_site, redis

pytestmark = pytest.mark.external

LISTENER = '[admin]\nbind = "off"\n[listeners.web]\nbind = "127.0.0.1:0"\npool = "http"\n'
POOL = """
[pools.{name}]
backends = ["{address}"]
[pools.{name}.health]
interval = "100ms"
fast_interval = "50ms"
down_interval = "100ms"
timeout = "200ms"
fall = 2
{check}
"""


def pool(name: str, address: str, check: str) -> str:
    return POOL.format(name=name, address=address, check=check)


def test_a_server_that_hangs_is_found_by_the_checks_that_talk(tmp_path: Path) -> None:
    with nginx_site() as site, redis() as store:
        text = LISTENER + pool("http", site.address, 'type = "http"\nexpect_body = "well"')
        text += pool("redis", store.address, 'type = "redis"') + pool("tcp", site.address, 'type = "tcp"')
        text += pool("said", store.address, 'type = "send_expect"\nsend = "PING\\r\\n"\nexpect = "+PONG"')
        (tmp_path / "lb.toml").write_text(text)
        with l4lb("serve", "-c", str(tmp_path / "lb.toml")) as process:
            for name in ("http", "redis", "tcp", "said"):
                process.wait_for(f"backend up pool={name} ")
            with site.stopped(), store.stopped():
                process.wait_for('backend down pool=http .*reason="status: no answer within 0.2 s"')
                process.wait_for('backend down pool=redis .*reason="answer: no answer within 0.2 s"')
                process.wait_for(r'backend down pool=said .*reason="expect\[0\]: no answer within 0.2 s"')
                assert "backend down pool=tcp" not in process.log
            for name in ("http", "redis", "said"):
                process.wait_for(rf"(?s)backend down pool={name} .*backend up pool={name} ")


def test_programs_and_functions(tmp_path: Path) -> None:
    flag = tmp_path / "up"
    flag.touch()
    script = f'test -e {flag} && exit 0; echo "no flag of $L4LB_POOL"; exit 1'
    text = LISTENER + pool("http", "127.0.0.1:1", f"type = \"exec\"\ncommand = ['/bin/sh', '-c', '{script}']")
    text += pool("called", "127.0.0.1:1", 'type = "python"\ncallable = "tests.unit.control.checks.functions:broken"')
    (tmp_path / "lb.toml").write_text(text)
    with l4lb("serve", "-c", str(tmp_path / "lb.toml")) as process:
        process.wait_for("backend up pool=http ")
        process.wait_for('backend down pool=called .*reason="call: RuntimeError: out of paper"')
        fds, threads = process.fds(), process.threads()
        flag.unlink()
        process.wait_for('backend down pool=http .*reason="command: exit code 1: no flag of http"')
        flag.touch()
        process.wait_for("(?s)backend down pool=http .*backend up pool=http ")
        assert process.fds() <= fds + 4  # a check in flight: a pipe and a pidfd
        assert process.threads() <= threads + 1
