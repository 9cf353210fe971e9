"""`l4lb check` says what `l4lb serve` would meet: as warnings what may be otherwise later, as errors what cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l4lb import ChangeError, Config, ConfigError
from l4lb.control.changes.in_kernel import kernel_problems
from l4lb.control.changes.preflight import preflight
from tests.scenarios.test_names import balancing
from tests.support import forking
from tests.support.balancing import make_config
from tests.support.names import Table
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until

FILE = """
[global]
log = "{log}"
access_log = "{log}"
state_file = "{state}"
[admin]
bind = "unix:{admin}"
[listeners.web]
bind = ["127.0.0.1:8080", "unix:{front}"]
pool = "web"
[pools.web]
backends = ["no-such-host.invalid:80", "localhost:80"]
"""


def warned(file: Path, table: Table) -> list[str]:
    _, warnings = preflight(Config.load(str(file)), table)
    return [str(one).removeprefix(f"{file}:") for one in warnings]


def test_names_and_places(tmp_path: Path) -> None:
    file, precious = tmp_path / "lb.toml", tmp_path / "precious"
    precious.write_text("data")
    none = tmp_path / "none"
    file.write_text(FILE.format(log=none / "log", state=none / "state", admin=precious / "admin.sock", front=precious))
    assert warned(file, Table(hosts={"localhost": ["127.0.0.1"]})) == [
        '12: pools.web.backends[0]: "no-such-host.invalid:80": name no-such-host.invalid does not resolve: NXDOMAIN',
        f'3: global.log: "{none}/log": there is no directory {none}',
        f'4: global.access_log: "{none}/log": there is no directory {none}',
        f'5: global.state_file: "{none}/state": there is no directory {none}',
        f'9: listeners.web.bind[1]: "unix:{precious}": something that is no socket is in the way',
        f'7: admin.bind: "unix:{precious}/admin.sock": {precious} is not a directory',
    ]
    fine = tmp_path / "run"
    fine.mkdir()
    file.write_text(FILE.format(log=fine / "log", state=fine / "state", admin=fine / "a/b", front=fine / "front"))
    hosts = {"localhost": ["127.0.0.1"], "no-such-host.invalid": ["192.0.2.1"]}
    assert warned(file, Table(hosts=hosts)) == []


def test_warnings_leave_the_exit_code_and_the_answer(tmp_path: Path) -> None:
    file, run = tmp_path / "lb.toml", tmp_path
    file.write_text(FILE.format(log=run / "log", state=run / "state", admin=run / "admin", front=run / "front"))
    with l4lb("check", str(file)) as process:
        assert process.wait(60) == 0
        assert process.process.stdout is not None
        assert process.process.stdout.read() == f"{file}: ok (1 listeners, 1 pools, 2 backends)\n"
        assert process.log.startswith(f"warning: {file}:12: pools.web.backends[0]: ")
        assert "no-such-host.invalid does not resolve: " in process.log


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("backend", ["127.0.0.2:{}", "localhost:{}"])
def test_a_backend_that_is_its_own_listener(command: str, backend: str, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "lb.toml"
    text = '[admin]\nbind = "off"\n[listeners.web]\nbind = ":{}"\npool = "web"\n[pools.web]\nbackends = ["{}"]\n'
    file.write_text(text.format(port, backend.format(port)))
    arguments = ("check", str(file)) if command == "check" else ("serve", "-c", str(file))
    with l4lb(*arguments) as process:
        assert process.wait(60) == 2
        place = f'{file}:7: pools.web.backends[0]: "{backend.format(port)}"'
        assert (
            process.log.splitlines()[-1] == f'{place}: is listener "web" of this process, and leads back to this pool'
        )


def test_by_a_reload_and_at_runtime_too_and_a_name_that_leads_back_later() -> None:
    port = free_port()
    table = Table(hosts={"me.example": ["127.0.0.1"]})
    options = {"listener": {"bind": f":{port}"}}
    with balancing(table, ["127.0.0.1:1"], **options) as (balancer, _):
        for address in (f"127.0.0.1:{port}", f"[::1]:{port}", f"me.example:{port}"):
            with pytest.raises(ChangeError, match="leads back"):
                balancer.pools["web"].add(address)
            with pytest.raises(ConfigError, match="leads back"):
                balancer.reload(make_config([address], **options))  # type: ignore[arg-type]
        assert list(balancer.pools["web"]) == ["127.0.0.1:1"]
        balancer.pools["web"].add(f"later.example:{port}")
        table.hosts["later.example"] = ["127.0.0.1"]

        def why() -> str:
            backends = balancer.status()["pools"][0]["backends"]
            return next(str(one["passed_over"]) for one in backends if one["id"] == f"later.example:{port}")

        assert wait_until(lambda: why() == "name later.example does not resolve: it leads back to this process")


KERNEL = """
[listeners.web]
bind = "{bind}"
pool = "web"
engine = "kernel"
mode = "{mode}"
[pools.web]
policy = "maglev"
backends = ["{backend}"]
"""
NEEDS = {
    ("203.0.113.1:80", "10.0.0.1:80", "nat"): "listeners.web: the way from each backend to every client leads through",
    ("203.0.113.1:80", "10.0.0.1:80", "dsr"): "ip addr add 203.0.113.1/32 dev lo",
    ("[2001:db8::1]:80", "[2001:db8::2]:80", "dsr"): "ip addr add 2001:db8::1/128 dev lo nodad",
    ("203.0.113.1:80", "10.0.0.1:80", "tunnel"): "`ip addr add 203.0.113.1/32 dev lo`",
    ("[2001:db8::1]:80", "10.0.0.1:80", "tunnel"): "IPv6 in IPv4: `modprobe sit`, `ip link set sit0 up`",
    ("203.0.113.1:80", "[2001:db8::2]:80", "tunnel"): "`advmss 1420`",
}


@pytest.mark.parametrize(("bind", "backend", "mode"), NEEDS)
def test_what_forwarding_in_the_kernel_needs(bind: str, backend: str, mode: str, tmp_path: Path) -> None:
    file, sysctls = tmp_path / "lb.toml", tmp_path / "sys"
    file.write_text(KERNEL.format(bind=bind, backend=backend, mode=mode))
    with l4lb("check", str(file)) as process:
        assert process.wait() == 0
        assert "note: listeners.web: " in process.log
        assert NEEDS[bind, backend, mode] in process.log
    config = Config.load(str(file))
    key = "net.ipv6.conf.all.forwarding" if bind.startswith("[") else "net.ipv4.ip_forward"
    place = sysctls.joinpath(*key.split("."))
    place.parent.mkdir(parents=True)
    for value, expected in (("0\n", True), ("1\n", False)):
        place.write_text(value)
        found = [message for _, message in kernel_problems(config, sysctls)]
        assert any(f"{key} is 0" in one for one in found) is expected


@pytest.mark.parametrize(("bind", "backend"), [("203.0.113.1:80", "10.0.0.1:80"), ("[2001:db8::1]:80", "[::1]:81")])
def test_what_full_nat_needs(bind: str, backend: str, tmp_path: Path) -> None:
    file, sysctls = tmp_path / "lb.toml", tmp_path / "sys"
    source = "::1" if bind.startswith("[") else "127.0.0.1"
    text = KERNEL.format(bind=bind, backend=backend, mode="nat")
    file.write_text(f'{text}source_address = "{source}"\n')
    with l4lb("check", str(file)) as process:
        assert process.wait() == 0
        assert f"note: listeners.web: backends see {source} in place of clients" in process.log
    place = sysctls / "net" / "ipv4"
    place.mkdir(parents=True)
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        (sysctls / name).parent.mkdir(parents=True, exist_ok=True)
        (sysctls / name).write_text("1\n")
    config = Config.load(str(file))
    for ports, expected in (("1024\t65535\n", True), ("2047\t65535\n", True), ("2048\t65535\n", False)):
        (place / "ip_local_port_range").write_text(ports)
        found = list(kernel_problems(config, sysctls))
        assert any("ip_local_port_range" in message for _, message in found) is expected, found
        assert {path for path, _ in found} <= {("pools", "web", "source_address"), ("listeners", "web", "engine")}


# ---- what works, and is hardly meant ----

MEANT = """
[listeners.web]
bind = "127.0.0.1:8080"
pool = "web"
[pools.web]
backends = ["127.0.0.1:80"]
health = {{ type = "{type}", interval = "1s", timeout = "{timeout}" }}
[pools.spare]
backends = ["127.0.0.1:81"]
"""


def test_a_pool_without_a_listener_and_a_slow_check(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(MEANT.format(type="tcp", timeout="3s"))
    assert warned(file, Table()) == [
        "8: pools.spare: no listener uses it",
        "7: pools.web.health.timeout: 3 s, above interval (1 s): a backend that does not answer is found late",
    ]
    file.write_text(
        MEANT.format(type="tcp", timeout="1s").replace(
            'pool = "web"', 'pool = "web"\nroutes = [{sni = ["a"], pool = "spare"}]'
        )
    )
    assert warned(file, Table()) == []


# ---- several, stdin, JSON ----


def checked(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    done = forking.run("check", *arguments, stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def test_several_files_and_stdin(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    text = MEANT.format(type="tcp", timeout="1s").partition("[pools.spare]")[0]
    good.write_text(text)
    bad.write_text('[listeners.web]\nbind = ":1"\npool = "web"\n[pools.web]\nbackends = [7]\n[admn]\n')
    assert checked(str(good), "-", stdin=text.encode()) == (
        0, f"{good}: ok (1 listeners, 1 pools, 1 backends)\n-: ok (1 listeners, 1 pools, 1 backends)\n", ""
    )  # fmt: skip
    code, out, err = checked(str(bad), str(good), str(tmp_path / "none"))
    assert (code, out) == (2, f"{good}: ok (1 listeners, 1 pools, 1 backends)\n")
    assert [line.removeprefix(f"{tmp_path}/").split(": ")[0] for line in err.splitlines()] == [
        "bad.toml:5", "bad.toml:6", "none"
    ]  # fmt: skip
    assert checked("-", stdin=b"x = = 1")[2].startswith("-:1: not TOML: ")
    assert checked("-", stdin=b"\xff")[2] == "-: not UTF-8 (byte 0)\n"
    assert "larger than 4 MiB" in checked("-", stdin=b"#" * ((4 << 20) + 2))[2]
    assert checked("-", "-")[0] == checked()[0] == 2


def test_as_json(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(MEANT.format(type="tcp", timeout="1s"))
    bad.write_text('[listeners.web]\nbind = ":1"\npool = "web"\n[pools.web]\nbackends = [7]\n')
    code, out, err = checked("--json", str(good), str(bad))
    first, second = json.loads(out)
    assert (code, err) == (2, "")
    assert (first["ok"], first["file"], first["errors"]) == (True, str(good), [])
    assert first["warnings"] == [
        {"path": "pools.spare", "message": "no listener uses it", "file": str(good), "line": 8}
    ]
    assert first["counts"] == {"listeners": 1, "pools": 2, "backends": 2}
    assert [(one["path"], one["line"]) for one in second["errors"]] == [("pools.web.backends[0]", 5)]
    assert second["ok"] is False
