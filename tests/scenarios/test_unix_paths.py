"""What stands at the path of a unix socket that is to be listened on, and is not ours to remove; and files that would
hold whoever opens them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from l4lb import Config, ConfigError, LoadBalancer
from l4lb.config import AdminConfig, GlobalConfig, Listener, Pool
from l4lb.net.files import read_bytes
from tests.support import forking
from tests.support.balancing import NO_CHECKS, make_config
from tests.support.programs import l4lb


def of_listener(path: Path) -> Config:
    return make_config(["127.0.0.1:1"], listener={"bind": f"unix:{path}"})


def of_admin(path: Path) -> Config:
    return Config(
        global_=GlobalConfig(workers=1),
        admin=AdminConfig(bind=f"unix:{path}"),
        listeners={"web": Listener(bind="127.0.0.1:0", pool="web")},
        pools={"web": Pool(backends=["127.0.0.1:1"], health=NO_CHECKS)},
    )


def _file(path: Path) -> None:
    path.write_text("precious")


def _link(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{path}.real")
    path.symlink_to(f"{path}.real")


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "a regular file": _file,
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a symbolic link": _link,
}


@pytest.mark.parametrize("of", [of_listener, of_admin])
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_socket_is_an_error_and_stays(of: Callable[[Path], Config], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "front"
    IN_THE_WAY[kind](path)
    before = path.lstat()
    with pytest.raises(ConfigError, match=f"cannot listen: {kind} is in the way"):
        LoadBalancer(of(path)).start()
    assert path.lstat().st_ino == before.st_ino
    if kind == "a regular file":
        assert path.read_text() == "precious"


@pytest.mark.parametrize("of", [of_listener, of_admin])
@pytest.mark.parametrize("full", [False, True])
def test_a_live_socket_is_in_use_also_with_a_full_backlog(
    of: Callable[[Path], Config], full: bool, tmp_path: Path
) -> None:
    """A connect that waits would wait for ever: nobody accepts."""
    path = tmp_path / "front"
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen(0)
        while full:
            waiting.append(sock := socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            if sock.connect_ex(str(path)):
                break
        with pytest.raises(ConfigError, match=rf"Address already in use: the socket is .* \(pid {os.getpid()}\)'s"):
            LoadBalancer(of(path)).start()
        assert path.is_socket()
    for sock in waiting:
        sock.close()


def test_a_datagram_socket_that_lives_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as live:
        live.bind(str(path))
        with pytest.raises(ConfigError, match="Address already in use"):
            LoadBalancer(of_listener(path)).start()
        assert path.is_socket()


def test_an_abstract_name_in_use_says_whose_it_is() -> None:
    name = f"l4lb-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(f"\0{name}")
        with pytest.raises(ConfigError, match=rf"already in use: the socket is .* \(pid {os.getpid()}\)'s"):
            LoadBalancer(make_config(["127.0.0.1:1"], listener={"bind": f"unix:@{name}"})).start()


def test_a_reload_to_a_full_socket_does_not_hold_the_process(tmp_path: Path) -> None:
    """It was deaf to every signal."""
    path, file = tmp_path / "live", tmp_path / "lb.toml"
    text = (
        '[admin]\nbind = "off"\n[listeners.web]\nbind = "{}"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
    )
    file.write_text(text.format("127.0.0.1:0"))
    with socket.socket(socket.AF_UNIX) as live, l4lb("serve", "-c", str(file)) as process:
        live.bind(str(path))
        live.listen(0)
        with socket.socket(socket.AF_UNIX) as waits:
            waits.connect(str(path))
            process.address("web")
            file.write_text(text.format(f"unix:{path}"))
            process.signal(signal.SIGHUP)
            process.wait_for("reload failed reason=.*the socket is")
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


def test_at_the_end_only_our_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "front"
    with LoadBalancer(of_listener(path)):
        path.unlink()
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"


# ---- files that hold whoever opens them ----


def test_reading_never_waits_for_ever(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert read_bytes(fifo) == b"", "nobody writes there"
    held = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(TimeoutError):
            read_bytes(fifo, within_s=0.05)
        os.write(held, b"x" * 100)
        with pytest.raises(OSError, match="larger than"):
            read_bytes(fifo, bytes_max=99)
    finally:
        os.close(held)
    for path, reason in (("/dev/zero", "a device"), (str(tmp_path), "directory")):
        with pytest.raises(OSError, match=reason):
            read_bytes(path)
    assert read_bytes("/dev/null") == b""


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_check_of_what_is_no_file_ends(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with l4lb("check", path if path.startswith("/") else str(tmp_path / path)) as process:
        assert process.wait() == 2, process.log


def test_a_configuration_may_come_by_a_pipe() -> None:
    text = '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
    done = forking.run("check", "/dev/stdin", stdin=text.encode())
    assert (done.returncode, done.stdout) == (0, "/dev/stdin: ok (1 listeners, 1 pools, 1 backends)\n"), done.stderr


def test_a_token_and_certificates_that_are_no_files_are_errors(tmp_path: Path) -> None:
    config = of_admin(tmp_path / "admin.sock").model_copy(
        update={"admin": AdminConfig(bind="127.0.0.1:0", token_file="/dev/zero")}
    )
    with pytest.raises(ConfigError, match=r"token_file: .*cannot be read: a device, expected a file"):
        LoadBalancer(config).start()
