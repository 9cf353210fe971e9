"""`[global] user`: root binds, and the user forwards; with which rights, and what works afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client, LoadBalancer
from l4lb.config import GlobalConfig
from l4lb.errors import ConfigError
from l4lb.net.privileges import NET_ADMIN, NET_BIND_SERVICE, NET_RAW
from tests.scenarios.test_refusing import refused
from tests.scenarios.test_upgrade import end, gone, upgraded
from tests.support.balancing import make_config
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb, share_of
from tests.support.users import OTHER_USER, directory_of_all, interpreter_of_all, require_root, rights_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

FILE = """
[global]
workers = 2
user = "{user}"
{more}
[admin]
bind = "unix:{directory}/run/admin.sock"
[listeners.web]
bind = [{binds}]
pool = "web"
{listener}
[pools.web]
backends = ["{backend}"]
[pools.web.health]
interval = "200ms"
"""


def low_port() -> int:
    """One that only CAP_NET_BIND_SERVICE may bind, and nobody has."""
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    for port in reversed(share_of(range(2, start))):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    pytest.skip("here every user may bind every port")


@pytest.fixture
def directory() -> Iterator[Path]:
    require_root()
    with directory_of_all() as made:
        yield made


def write(directory: Path, backend: str, binds: list[str], *, user: str = OTHER_USER, **lines: str) -> Path:
    file = directory / "lb.toml"
    fields = {"more": "", "listener": "", **lines}
    listed = ", ".join(f'"{bind}"' for bind in binds)
    file.write_text(FILE.format(directory=directory, backend=backend, binds=listed, user=user, **fields))
    return file


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


@contextlib.contextmanager
def served(file: Path) -> Iterator[L4lb]:
    admin = f"unix:{file.parent}/run/admin.sock"
    with l4lb("serve", "-c", str(file), "--admin", admin, within=interpreter_of_all()) as process:
        process.wait_for("backend up")
        yield process
        assert "Traceback" not in process.log


def expect_user(pid: int, user: str, capabilities: int) -> None:
    """Every thread is that user for good. Only threads that bind or forward keep `capabilities`; none has more."""
    entry = pwd.getpwnam(user)
    for thread, rights in rights_of(pid).items():
        assert rights.uids == (entry.pw_uid,) * 4, thread
        assert rights.gids == (entry.pw_gid,) * 4, thread
        assert rights.groups == tuple(sorted(os.getgrouplist(user, entry.pw_gid))), thread
        assert rights.permitted == rights.effective, thread
        assert rights.permitted & ~capabilities == 0, thread
        assert rights.inheritable == rights.ambient == 0, thread
        if thread.startswith("l4lb-"):
            assert rights.permitted == capabilities, thread
            assert rights.no_new, thread


def test_every_thread_is_the_user_and_no_way_leads_back(directory: Path) -> None:
    port = low_port()
    (directory / "of-root").mkdir(mode=0o755)
    with serving(echo) as one:
        unix = f"unix:{directory}/of-root/web.sock"
        with served(write(directory, one.address, [f"127.0.0.1:{port}", unix])) as process:
            pid = process.process.pid
            assert len([thread for thread in rights_of(pid) if thread.startswith("l4lb-worker-")]) == 2
            expect_user(pid, OTHER_USER, 1 << NET_BIND_SERVICE)
            assert asked(f"127.0.0.1:{port}") == b"?"
            assert asked(unix) == b"?"
            entry = pwd.getpwnam(OTHER_USER)
            for name in ("run", "run/admin.sock", "run/admin.sock.lock", "of-root/web.sock"):
                found = (directory / name).stat()
                assert (found.st_uid, found.st_gid) == (entry.pw_uid, entry.pw_gid), name
            told = (
                rf"not allowed path={directory}/of-root/web.sock reason=\"user {OTHER_USER} may not remove files there"
            )
            process.wait_for(told)
            assert process.log.count("not allowed") == 1
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        assert not (directory / "run/admin.sock").exists()
        assert (directory / "of-root/web.sock").exists()
        with served(write(directory, one.address, [unix])) as process:  # what stayed is in nobody's way
            assert asked(unix) == b"?"


def test_a_reload_binds_another_low_port_and_upgrades_go_on(directory: Path) -> None:
    first = low_port()
    with serving(echo) as one, contextlib.ExitStack() as stack:
        file = write(directory, one.address, [f"127.0.0.1:{first}"])
        process = stack.enter_context(served(file))
        second = low_port()
        assert second != first
        write(directory, one.address, [f"127.0.0.1:{first}", f"127.0.0.1:{second}"])
        process.signal(signal.SIGHUP)
        process.wait_for("reloaded")
        assert asked(f"127.0.0.1:{second}") == b"?"

        pids, admin = [process.process.pid], f"unix:{directory}/run/admin.sock"
        for _ in range(2):
            pids.append(upgraded(process, pids[-1], admin))
            stack.callback(end, pids[-1])
            expect_user(pids[-1], OTHER_USER, 1 << NET_BIND_SERVICE)
            assert all(rights.no_new for rights in rights_of(pids[-1]).values())
            assert asked(f"127.0.0.1:{first}") == b"?"
        assert process.wait() == 0
        third = low_port()
        write(directory, one.address, [f"127.0.0.1:{third}"])
        os.kill(pids[-1], signal.SIGHUP)
        assert wait_until(lambda: _listens(third), 20), process.log
        os.kill(pids[-1], signal.SIGTERM)
        assert wait_until(lambda: gone(pids[-1]), 20)
        assert not (directory / "run/admin.sock").exists()


def test_an_upgrade_may_be_what_gives_rights_up(directory: Path) -> None:
    port = low_port()
    with serving(echo) as one, contextlib.ExitStack() as stack:
        binds = [f"127.0.0.1:{port}", f"unix:{directory}/web.sock"]
        process = stack.enter_context(served(write(directory, one.address, binds, user="")))
        assert {rights.uids for rights in rights_of(process.process.pid).values()} == {(0,) * 4}
        write(directory, one.address, binds)
        new = upgraded(process, process.process.pid, f"unix:{directory}/run/admin.sock")
        stack.callback(end, new)
        expect_user(new, OTHER_USER, 1 << NET_BIND_SERVICE)
        for name in ("web.sock", "run/admin.sock", "run/admin.sock.lock"):
            assert (directory / name).stat().st_uid == pwd.getpwnam(OTHER_USER).pw_uid, name
        assert asked(f"127.0.0.1:{port}") == b"?"
        process.wait_for(rf"not allowed path={directory}/run/admin.sock")
        os.kill(new, signal.SIGTERM)
        assert wait_until(lambda: gone(new), 20)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        return asked(f"127.0.0.1:{port}") == b"?"
    return False


def test_transparent_keeps_one_capability_more_and_only_from_the_start(directory: Path) -> None:
    with serving(echo) as one:
        file = write(directory, one.address, ["192.0.2.77:8080"], listener="transparent = true")
        with served(file) as process:
            expect_user(process.process.pid, OTHER_USER, 1 << NET_BIND_SERVICE | 1 << NET_RAW)
        with served(write(directory, one.address, ["127.0.0.1:0"])) as process:
            write(directory, one.address, ["127.0.0.1:0"], listener="transparent = true")
            process.signal(signal.SIGHUP)
            reason = r"127\.0\.0\.1:0: cannot listen: transparent requires CAP_NET_RAW or CAP_NET_ADMIN"
            process.wait_for(rf"reload failed reason=\".*lb\.toml:\d+: listeners\.web\.bind: {reason}")
            expect_user(process.process.pid, OTHER_USER, 1 << NET_BIND_SERVICE)


def test_dropping_clients_keeps_the_capability_that_filters_need(directory: Path) -> None:
    """A reload sets another filter."""
    with serving(echo) as one:
        address = f"127.0.0.1:{free_port()}"
        listener = 'deny = ["127.0.0.2"]\ndeny_action = "drop"'
        file = write(directory, one.address, [address], listener=listener)
        with served(file) as process:
            expect_user(process.process.pid, OTHER_USER, 1 << NET_BIND_SERVICE | 1 << NET_ADMIN)
            assert asked(address) == b"?"
            write(directory, one.address, [address], listener=listener.replace("127.0.0.2", "127.0.0.1"))
            process.signal(signal.SIGHUP)
            process.wait_for("reloaded")
            with socket.socket() as client:
                client.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    client.connect(("127.0.0.1", int(address.rpartition(":")[2])))


def test_what_the_user_may_not_read_is_said_at_once_and_changes_nothing(directory: Path) -> None:
    with serving(echo) as one:
        file = write(directory, one.address, ["127.0.0.1:0"])
        file.chmod(0o600)
        with served(file) as process:
            process.wait_for(
                rf"not allowed path={file} reason=\"user {OTHER_USER} may not read it: reloads and upgrades"
            )
            address = "{}:{}".format(*process.address("web"))
            process.signal(signal.SIGHUP)
            process.wait_for("reload failed reason=.*cannot be read: Permission denied")
            process.signal(signal.SIGUSR2)
            process.wait_for("upgrade failed reason=.*cannot be read: Permission denied")
            assert asked(address) == b"?"


def test_a_user_that_is_another_cannot_be_had_by_a_reload(directory: Path) -> None:
    with serving(echo) as one:
        with served(write(directory, one.address, ["127.0.0.1:0"])) as process:
            write(directory, one.address, ["127.0.0.1:0"], user="daemon")
            process.signal(signal.SIGHUP)
            process.wait_for("reload incomplete keys=global.user")
            process.signal(signal.SIGUSR2)
            process.wait_for("upgrade failed .*global.user: .*daemon.*: only root may become another user")
            expect_user(process.process.pid, OTHER_USER, 1 << NET_BIND_SERVICE)


def test_with_a_group_of_its_own(directory: Path) -> None:
    with serving(echo) as one:
        with served(write(directory, one.address, ["127.0.0.1:0"], more='group = "daemon"')) as process:
            for rights in rights_of(process.process.pid).values():
                assert set(rights.gids) == {1}
                assert 1 in rights.groups
                assert 0 not in rights.groups


def test_the_default_admin_directory_is_the_users_and_roots_again(directory: Path) -> None:
    file = write(directory, "127.0.0.1:1", ["127.0.0.1:0"])
    file.write_text(file.read_text().replace(f'bind = "unix:{directory}/run/admin.sock"', ""))
    for _ in range(2):
        environment = {"RUNTIME_DIRECTORY": f"{directory}/run"}
        within = interpreter_of_all()
        with l4lb("serve", "-c", str(file), environment=environment, within=within, admin=True) as process:
            process.wait_for(f"admin listening address=unix:{directory}/run/admin.sock")
            assert (directory / "run").stat().st_uid == pwd.getpwnam(OTHER_USER).pw_uid
            assert "not allowed" not in process.log
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


WRONG = {
    "no user": ({"user": "nobdy"}, 'global.user: "nobdy": no such user'),
    "root": ({"user": "root"}, 'global.user: "root": expected a user other than root'),
    "no group": ({"more": 'group = "nogrp"'}, 'global.group: "nogrp": no such group'),
    "number": ({"user": "4000000"}, 'global.user: "4000000": expected a group with the number of a user'),
    "group alone": ({"user": "", "more": 'group = "daemon"'}, "global.group: has no effect without user"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_user_is_found_by_check(case: str, tmp_path: Path) -> None:
    lines, expected = WRONG[case]
    file = write(tmp_path, "127.0.0.1:1", ["127.0.0.1:0"], **lines)  # type: ignore[arg-type]
    with l4lb("check", str(file)) as process:
        assert process.wait() == 2
        assert expected in process.log


def test_a_program_that_embeds_it_keeps_its_user() -> None:
    config = make_config(["127.0.0.1:1"]).model_copy(update={"global_": GlobalConfig(user=OTHER_USER)})
    with pytest.raises(ConfigError, match=r"global\.user: only `l4lb serve` changes its user"):
        LoadBalancer(config).start()


def test_the_user_stops_listening_without_a_backend_and_listens_again(directory: Path) -> None:
    """At a low port, and at a unix socket in a directory where only root may write, which goes on accepting."""
    port = low_port()
    low, path = f"127.0.0.1:{port}", directory / "web.sock"
    with serving(echo) as backend:
        binds = [low, f"127.0.0.2:{port}"]
        file = write(directory, backend.address, binds, listener='when_no_backend = "refuse"')
        more = f'[listeners.file]\nbind = "unix:{path}"\npool = "web"\nwhen_no_backend = "refuse"\n[pools.web]\n'
        file.write_text(file.read_text().replace("[pools.web]\n", more, 1))
        directory.chmod(0o755)
        with served(file) as process, Client(f"unix:{directory}/run/admin.sock", timeout=60) as client:
            process.wait_for("listening listener=web")
            for _ in range(2):
                client.pools["web"][backend.address].maint()
                assert wait_until(lambda: all(map(refused, binds)))
                process.wait_for("listener cannot refuse listener=file")
                assert not refused(f"unix:{path}")
                client.pools["web"][backend.address].ready()
                assert wait_until(lambda: not any(map(refused, binds)))
                assert [asked(bind) for bind in [*binds, f"unix:{path}"]] == [b"?"] * 3
