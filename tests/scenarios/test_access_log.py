"""The access log of `l4lb serve`: complete, and no session's business when nobody reads it. The long form runs with
L4LB_SOAK=1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lines import KEYS, parse_text, read_text
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb, require, run, without_preload
from tests.support.traffic import Counted, Scraped, sessions
from tests.support.waiting import wait_until

SESSIONS = 100_000 if os.environ.get("L4LB_SOAK") else 5000
LONG = "b" * 250  # a name that makes lines of 730 bytes
MORE_THAN_WAIT = 2000  # a pipe and what is kept for it hold about 1,500 such lines
SLOW_S = 5.0  # no session takes so long, however busy the machine
CONFIG = """
[global]
workers = 2
{options}
[admin]
bind = "127.0.0.1:0"
[listeners.web]
bind = "0.0.0.0:0"
pool = "{pool}"
[pools.{pool}]
backends = [{{ address = "{backend}", id = "{id}" }}]
"""


class Serving:
    """A running `l4lb` with its address, its metrics and its configuration."""

    def __init__(self, process: L4lb, file: Path, names: dict[str, str]) -> None:
        self.process = process
        self._file = file
        self._names = names
        self.address = ("127.0.0.1", process.address("web")[1])
        self.admin = process.wait_for(r"admin listening address=(\S+)")[1]
        process.wait_for("backend up")

    def reload(self, options: str, expect: str = "") -> None:
        """Until that is done; `expect` is what the log says of it."""
        before = Scraped(self.admin).total("l4lb_config_reloads_total")
        self._file.write_text(CONFIG.format(options=options, **self._names))
        self.process.signal(signal.SIGHUP)
        assert wait_until(lambda: Scraped(self.admin).total("l4lb_config_reloads_total") > before)
        assert expect in self.process.log

    def wait_lost(self, reason: str) -> float:
        """Until the log says that lines are lost for `reason`; how many are."""
        self.process.wait_for(rf'access log dropping to=.* reason="{reason}"')
        return Scraped(self.admin).total("l4lb_access_log_dropped_total")

    def wait_told(self, count: int) -> Scraped:
        """Until that many sessions have ended and each is written or counted as lost; what is scraped then."""
        seen: list[Scraped] = []

        def told() -> bool:
            seen[:] = [Scraped(self.admin)]
            lines = seen[0].total("l4lb_access_log_lines_total") + seen[0].total("l4lb_access_log_dropped_total")
            return lines == count and seen[0].total("l4lb_sessions_active") == 0

        assert wait_until(told, 30), (count, [one for one in seen[0].samples if "access_log" in one.name])
        return seen[0]


@contextlib.contextmanager
def serving_with(tmp_path: Path, options: str, name: str = "one") -> Iterator[Serving]:
    """A backend with that `name`, in a pool of the same."""
    with serving(echo) as server:
        names = {"backend": server.address, "id": name, "pool": name}
        file = tmp_path / "lb.toml"
        file.write_text(CONFIG.format(options=options, **names))
        with l4lb("serve", "-c", str(file), "--admin", "127.0.0.1:0") as process:
            yield Serving(process, file, names)


def check_against(counted: Counted, lines: list[dict[str, str]], scraped: Scraped) -> None:
    """Clients, log and metrics say the same."""
    assert len(lines) == counted.sessions == scraped.total("l4lb_sessions_total")
    assert Counter(line["close_reason"] for line in lines) == {"normal": counted.sessions}
    assert scraped.total("l4lb_session_closed_total", reason="normal") == counted.sessions
    assert scraped.total("l4lb_session_seconds_count") == counted.sessions
    assert scraped.total("l4lb_backend_connect_seconds_count") == counted.sessions
    for key, direction, own in (("bytes_up", "up", counted.sent), ("bytes_down", "down", counted.received)):
        assert sum(int(line[key]) for line in lines) == own
        assert scraped.total("l4lb_bytes_total", direction=direction) == own
    assert len({line["session_id"] for line in lines}) == len(lines)


def test_clients_log_and_metrics_count_the_same(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with serving_with(tmp_path, f'access_log = "{path}"') as balancer:
        counted = sessions(balancer.address, SESSIONS)
        scraped = balancer.wait_told(SESSIONS)
        lines = read_text(path)
        place = f"127.0.0.1:{balancer.address[1]}"
    check_against(counted, lines, scraped)
    assert {tuple(line) for line in lines} == {tuple(KEYS)}
    for key, value in (("listener", "web"), ("pool", "one"), ("backend", "one"), ("local", place)):
        assert {line[key] for line in lines} == {value}


def test_json_to_stdout_after_a_reload(tmp_path: Path) -> None:
    with serving_with(tmp_path, 'access_log = "off"') as balancer:
        sessions(balancer.address, 10)
        balancer.reload('access_log = "stdout"\nlog_format = "json"')
        counted = sessions(balancer.address, 50)
        scraped = balancer.wait_told(50)
        balancer.process.signal(signal.SIGTERM)
        output = balancer.process.process.communicate(timeout=30)[0]
    lines = [json.loads(line) for line in output.splitlines()]
    assert sum(line["bytes_up"] for line in lines) == counted.sent
    assert {tuple(line) for line in lines} == {tuple(KEYS)}
    assert scraped.total("l4lb_sessions_total") == 60


def test_a_place_that_cannot_be_had_is_an_error_and_a_reload_to_it_changes_nothing(tmp_path: Path) -> None:
    options = f'access_log = "{tmp_path}/no/access.log"'
    file = tmp_path / "wrong.toml"
    file.write_text(CONFIG.format(options=options, backend="127.0.0.1:1", id="one", pool="one"))
    with l4lb("serve", "-c", str(file)) as process:
        assert process.wait() == 2
        message = f'"{tmp_path}/no/access.log": cannot be opened: No such file or directory'
        assert process.log.splitlines() == [f"{file}:4: global.access_log: {message}"]
    path = tmp_path / "access.log"
    with serving_with(tmp_path, f'access_log = "{path}"') as balancer:
        balancer.reload(options, "reload failed")
        sessions(balancer.address, 10)
        balancer.wait_told(10)
        assert len(read_text(path)) == 10


def test_sessions_that_end_with_the_process_are_told(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with serving_with(tmp_path, f'access_log = "{path}"\ndrain_timeout = "100ms"') as balancer:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(connect(balancer.address))
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            balancer.process.signal(signal.SIGTERM)
            assert balancer.process.wait() == 0
    assert Counter(line["close_reason"] for line in read_text(path)) == {"shutdown": 20}


def test_a_reader_of_the_pipe_that_is_stuck_and_then_gone(tmp_path: Path) -> None:
    with serving_with(tmp_path, 'access_log = "stdout"', LONG) as balancer:
        stdout = balancer.process.process.stdout
        assert stdout is not None
        first = sessions(balancer.address, MORE_THAN_WAIT)
        stuck = balancer.wait_lost("its reader is slow or stuck")
        stdout.close()
        second = sessions(balancer.address, MORE_THAN_WAIT)
        all_ended = 2 * MORE_THAN_WAIT
        assert wait_until(lambda: Scraped(balancer.admin).total("l4lb_session_closed_total") == all_ended)
        gone = Scraped(balancer.admin)
        balancer.process.signal(signal.SIGTERM)
        assert balancer.process.wait() == 0
    assert max(first.slowest_s, second.slowest_s) < SLOW_S
    assert 0 < stuck < MORE_THAN_WAIT
    assert gone.total("l4lb_session_closed_total", reason="normal") == all_ended
    assert gone.total("l4lb_access_log_dropped_total", reason="write") >= stuck + MORE_THAN_WAIT // 2
    assert gone.total("l4lb_access_log_dropped_total", reason="ring") == 0


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """2 MiB, of which 256 KiB are free until `other` goes."""
    path.mkdir()
    mount = [require("mount"), "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, env=without_preload())
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        (path / "other").write_bytes(bytes(7 * 256 * 1024))
        yield
    finally:
        run("umount", str(path))


def test_a_full_disk(tmp_path: Path) -> None:
    """Lines are lost and counted, none is torn, and it goes on when there is room again."""
    disk = tmp_path / "disk"
    path = disk / "access.log"
    with small_disk(disk):
        with serving_with(tmp_path, f'access_log = "{path}"', LONG) as balancer:
            counted = sessions(balancer.address, MORE_THAN_WAIT)
            lost = balancer.wait_lost("No space left on device")
            (disk / "other").unlink()
            balancer.process.wait_for(rf"access log recovered to={path} dropped=\d+")
            more = sessions(balancer.address, 100)
            scraped = balancer.wait_told(MORE_THAN_WAIT + 100)
        lines = read_text(path)
    dropped = scraped.total("l4lb_access_log_dropped_total", reason="write")
    assert max(counted.slowest_s, more.slowest_s) < SLOW_S
    assert dropped >= lost > 0
    assert len(lines) + dropped == counted.sessions + more.sessions


ROTATE = """
"{path}" {{
  rotate 100
  size 1
  nocompress
  create
  postrotate
    kill -USR1 {pid}
  endscript
}}
"""


@pytest.mark.external
def test_logrotate_loses_and_tears_no_line(tmp_path: Path) -> None:
    require("logrotate")
    directory = tmp_path / "log"
    directory.mkdir(mode=0o755)
    path = directory / "access.log"
    own = directory / "own.log"
    with serving_with(tmp_path, f'access_log = "{path}"') as balancer:
        balancer.reload(f'access_log = "{path}"\nlog = "{own}"')
        rules = tmp_path / "rotate"
        rules.write_text(ROTATE.format(path=path, pid=balancer.process.process.pid))
        rules.chmod(0o644)
        for round_ in range(4):
            sessions(balancer.address, 500)
            run("logrotate", "-s", str(tmp_path / "state"), str(rules))
            assert wait_until(lambda: own.read_text().count("access log reopened") == round_ + 1)  # noqa: B023
        sessions(balancer.address, 500)
        scraped = balancer.wait_told(2500)
        files = sorted(directory.glob("access.log*"))
    assert len(files) == 5
    assert sum(len(read_text(file)) for file in files) == 2500
    assert scraped.total("l4lb_access_log_dropped_total") == 0


def test_log_files_are_opened_again_while_the_process_drains(tmp_path: Path) -> None:
    own = tmp_path / "own.log"
    with serving_with(tmp_path, "") as balancer:
        balancer.reload(f'log = "{own}"')
        with connect(balancer.address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            balancer.process.signal(signal.SIGTERM)
            assert wait_until(lambda: "draining" in own.read_text())
            own.rename(tmp_path / "own.log.1")
            balancer.process.signal(signal.SIGUSR1)
            assert wait_until(own.exists)
        assert balancer.process.wait() == 0
    assert "drained" in own.read_text()


RSYSLOG = """
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
input(type="imuxsock" Socket="{dir}/log" UseSpecialParser="off" ParseHostname="on" RateLimit.Interval="0")
input(type="imudp" address="127.0.0.1" port="{port}")
template(name="fields" type="string"
         string="%syslogfacility-text% %syslogseverity-text% %app-name% %msgid% %msg%\\n")
*.* action(type="omfile" file="{dir}/out" template="fields")
"""


@contextlib.contextmanager
def rsyslog(directory: Path, port: int) -> Iterator[None]:
    conf = directory / "rsyslog.conf"
    conf.write_text(RSYSLOG.format(dir=directory, port=port))
    (directory / "log").unlink(missing_ok=True)
    command = [require("rsyslogd"), "-n", "-f", str(conf), "-i", str(directory / "rsyslog.pid")]
    process = subprocess.Popen(command, env=without_preload(), stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: (directory / "log").exists() or process.poll() is not None)
        assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait(20)


def syslog_lines(directory: Path, message_id: str) -> list[str]:
    """The messages of that kind, which came as ours."""
    found = []
    for line in (directory / "out").read_text().splitlines() if (directory / "out").exists() else []:
        facility, _, application, kind, message = line.split(" ", 4)
        assert (facility, application) == ("local2", "l4lb"), line
        if kind == message_id:
            found.append(message.strip())
    return found


@pytest.mark.external
@pytest.mark.parametrize("transport", ["unix", "udp"])
def test_access_log_and_log_to_a_real_syslog(transport: str, tmp_path: Path) -> None:
    port = free_port()
    place = f"unix:{tmp_path}/log" if transport == "unix" else f"127.0.0.1:{port}"
    options = f'access_log = "syslog"\nlog = "syslog"\nsyslog = "{place}"\nsyslog_facility = "local2"'
    with rsyslog(tmp_path, port), serving_with(tmp_path, "") as balancer:
        balancer.reload(options, "")
        counted = sessions(balancer.address, 200)
        balancer.wait_told(200)
        assert wait_until(lambda: len(syslog_lines(tmp_path, "session")) == 200)
        balancer.process.signal(signal.SIGTERM)
        assert wait_until(lambda: any("draining" in line for line in syslog_lines(tmp_path, "log")))
    lines = [parse_text(line) for line in syslog_lines(tmp_path, "session")]
    assert sum(int(line["bytes_up"]) for line in lines) == counted.sent


@pytest.mark.external
def test_a_syslog_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    options = f'access_log = "syslog"\nsyslog = "unix:{tmp_path}/log"\nsyslog_facility = "local2"'
    port = free_port()
    with serving_with(tmp_path, options, LONG) as balancer:
        first = sessions(balancer.address, MORE_THAN_WAIT)  # there was none yet
        lost = balancer.wait_lost("No such file or directory")
        with rsyslog(tmp_path, port):
            balancer.process.wait_for("access log recovered")
            sessions(balancer.address, 100)
            scraped = balancer.wait_told(MORE_THAN_WAIT + 100)
            written = scraped.total("l4lb_access_log_lines_total")
            assert wait_until(lambda: len(syslog_lines(tmp_path, "session")) == written)
    assert first.slowest_s < SLOW_S
    assert lost > 0
    assert written + scraped.total("l4lb_access_log_dropped_total") == MORE_THAN_WAIT + 100
