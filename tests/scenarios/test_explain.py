"""`l4lb explain`, the API and the library say beforehand what the workers then do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client, Config, LoadBalancer
from l4lb.config import AdminConfig
from l4lb.errors import AdminError
from tests.scenarios.test_policies import backends, held, three_backends
from tests.support import forking
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect
from tests.support.programs import free_port, l4lb

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


ROUTED = """
[listeners.front]
bind = "127.0.0.1:{port}"
pool = "web"
[[listeners.front.routes]]
sni = ["api.example.com"]
alpn = ["h2"]
pool = "api"
[[listeners.front.routes]]
source = ["192.0.2.0/24"]
split = {{ web = 1, api = 1 }}
[[listeners.front.routes]]
starts_with = "SSH-"
pool = "ssh"
[pools.web]
backends = ["127.0.0.1:1"]
[pools.api]
backends = ["127.0.0.1:2"]
[pools.ssh]
backends = ["127.0.0.1:3"]
"""
PASSED = "not route 1 (to api): {} does not match"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--sni", "api.example.com", "--alpn", "h2", "front", "10.0.0.1"),
         ["route 1 (sni api.example.com, alpn h2) takes"]),
        (("--sni", "api.example.com", "front", "10.0.0.1"),
         [PASSED.format("alpn"), "no route takes this client", "pool web"]),
        (("--sni", "www.example.com", "--alpn", "h2", "front", "10.0.0.1"), [PASSED.format("sni")]),
        (("--alpn", "h2", "front", "10.0.0.1"), [PASSED.format("sni")]),
        (("--first", "SSH-2.0", "front", "10.0.0.1"), [PASSED.format("sni"), "route 3 (starts_with SSH-)", "pool ssh"]),
        (("--first", "hex:5353482d", "front", "10.0.0.1:5"), ["route 3"]),
        (("front", "192.0.2.1"), ["route 2 (source 192.0.2.0/24)", "one of web=1 api=1 by its address, to pool "]),
        (("front", "10.0.0.1"), ["not route 2 (to web, api): source", "not route 3 (to ssh): starts_with", "pool web"]),
        (("web", "10.0.0.1"), ["pool web (round_robin)"]),
    ],
)  # fmt: skip
def test_of_a_listener_it_says_which_route_and_why(
    arguments: tuple[str, ...], wanted: list[str], routed: tuple[Path, str]
) -> None:
    file, admin = routed
    offline = explain(*arguments, "-c", str(file))
    assert offline.returncode == 0, offline.stderr
    for text in wanted:
        assert text in offline.stdout
    live = json.loads(explain(*arguments, "--admin", admin, "--json").stdout)
    shown = json.loads(explain(*arguments, "-c", str(file), "--json").stdout)
    for one in (live, shown):
        one.pop("backend", None)  # in the running one no backend is up
        for of_backends in ("passed_over", "candidates", "chosen", "tier", "why", "how", "table_digest"):
            one.pop(of_backends, None)
    assert live == shown


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    directory = tmp_path_factory.mktemp("routed")
    file, admin = directory / "lb.toml", f"unix:{directory}/admin.sock"
    file.write_text(ROUTED.format(port=free_port()))
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("admin listening")
        yield file, admin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sni", "a.test", "nowhere", "127.0.0.1"), '"nowhere": no such listener'),
        (("--first", "hex:1", "front", "127.0.0.1"), "pairs of hexadecimal digits"),
        (("--sni", "a.test", "front", "here"), '"here": expected an IP address'),
    ],
)
def test_a_wrong_question_about_a_listener(arguments: tuple[str, ...], message: str, routed: tuple[Path, str]) -> None:
    file, admin = routed
    for where in (("-c", str(file)), ("--admin", admin)):
        done = explain(*arguments, *where)
        assert done.returncode in (1, 2)
        assert message in done.stderr.splitlines()[0]
    with Client(admin) as client, pytest.raises(AdminError, match='no listener "nowhere"'):
        client.ask("GET", "/v1/listeners/nowhere/explain?source=127.0.0.1")


def test_the_library_explains_listeners() -> None:
    config = Config.loads(ROUTED.format(port=0))
    with LoadBalancer(config.model_copy(update={"admin": AdminConfig(bind="off")})) as balancer:
        said = balancer.listeners["front"].explain("10.0.0.1", sni="API.example.com", alpn=["http/1.1", "h2"])
        assert (said["route"], said["backend"]["pool"]) == (1, "api")
        assert said["conditions"] == {"sni": ["api.example.com"], "alpn": ["h2"]}
        with pytest.raises(ValueError, match="expected an IP address"):
            balancer.listeners["front"].explain("here")
