"""`l4lb explain`, the API and the library say beforehand what the workers then do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.errors import AdminError
from tests.scenarios.test_policies import backends, held, three_backends
from tests.support import forking
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect
from tests.support.programs import l4lb

CONFIG = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"

[pools.web]
policy = "maglev"
table_size = 251
hash_key = "source_ip_port"
backends = [
  {{ address = "{0}", id = "a" }}, {{ address = "{1}", id = "b" }}, {{ address = "{2}", id = "c" }},
  {{ address = "127.0.0.1:9", id = "d", admin_state = "drain" }},
]

[pools.web.health]
type = "none"
"""


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forking.run("explain", *arguments)


@pytest.mark.parametrize("policy", ["maglev", "ring", "rendezvous"])
def test_the_library_says_where_each_client_goes(policy: str) -> None:
    with three_backends() as servers:
        options = {"policy": policy, "table_size": 251, "hash_key": "session"}
        with balancing(backends(servers), **options) as balancer:
            for _ in range(20):
                with connect(address_of(balancer)) as sock:
                    source = "{}:{}".format(*sock.getsockname())
                    said = balancer.pools["web"].explain(source, to=address_of(balancer))
                    assert sock.recv(1).decode() == said["chosen"] == said["candidates"][0]["id"]


def test_a_full_backend_is_named_and_the_next_one_serves() -> None:
    with three_backends() as servers:
        pool = backends(servers, a={"max_sessions": 1}, b={"max_sessions": 1}, c={"max_sessions": 1})
        with balancing(pool, policy="maglev") as balancer, contextlib.ExitStack() as stack:
            order = [one["id"] for one in balancer.pools["web"].explain("127.0.0.1")["candidates"]]
            assert held(stack, address_of(balancer), 1) == order[0]
            said = balancer.pools["web"].explain("127.0.0.1")
            assert said["chosen"] == order[1]
            assert [one["full"] for one in said["candidates"]] == [True, False, False]
            assert [held(stack, address_of(balancer), 1) for _ in range(2)] == order[1:]


def test_the_command_live_and_from_a_file_agree(tmp_path: Path) -> None:
    with three_backends() as servers:
        file, admin = tmp_path / "lb.toml", f"unix:{tmp_path}/admin.sock"
        file.write_text(CONFIG.format(*(server.address for server in servers)))
        offline = json.loads(explain("web", "127.0.0.1:5000", "-c", str(file), "--json").stdout)
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("admin listening")
            live = json.loads(explain("web", "127.0.0.1:5000", "--admin", admin, "--json").stdout)
            text = explain("web", "127.0.0.1:5000", "--admin", admin).stdout
            with Client(admin) as client:
                assert client.explain("web", "127.0.0.1:5000") == live
                for arguments, message in (
                    (("nowhere", "127.0.0.1"), 'no pool "nowhere"'),
                    (("web", "here"), '"here": expected an IP address'),
                    (("web", "127.0.0.1:70000"), "expected an IP address"),
                ):
                    with pytest.raises(AdminError, match=message):
                        client.explain(*arguments)
    assert offline == live
    assert live["passed_over"] == {"d": "admin state drain"}
    assert f"gets {live['chosen']}\n" in text
    assert "passed over: d: admin state drain" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "127.0.0.1"), '"nowhere": no such pool; there are web'),
        (("web", "[::1"), '"[::1": expected an IP address, with or without a port'),
    ],
)
def test_a_wrong_question_is_answered_with_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(CONFIG.format("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))
    done = explain(*arguments, "-c", str(file))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[0]
