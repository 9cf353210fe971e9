"""The questions of docs/questions.md, asked of an instance that is in such a situation: the answer is in what the
command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.test_slow_backend import SESSIONS, ended, two_backends, visit
from tests.support import forking
from tests.support.examples import run_in_a_place

PAGE = Path("docs/questions.md")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.11", "192.0.2.7", "192.0.2.8", "192.0.2.66")
# What the answer looks like, in what is printed.
ANSWERS = {
    "Why is this one out?": r"10\.0\.0\.3:8443 .*no new sessions: down for \d\w* \(connect: connection refused\)",
    "Who changed its weight?": r'backend set weight=5 pool=web backend=10\.0\.0\.2:8443 by="root \(pid \d+\)"',
    "Which client is heaviest?": r"SOURCE .*\n192\.0\.2\.8 ",
    "What was refused, and why?": r"not served: .*\b1 denied",
    "When does the drain end?": r"drains, at most \d+ s more",
    "Does the file differ from what runs?": r"pools\.web\.backends\[10\.0\.0\.2:8443\]\.weight: runs with 5, .* has 1",
    "Which sessions does this backend have?": r"192\.0\.2\.\d:\d+ +web +web/10\.0\.0\.2:8443 +relaying",
    "Is it at its limits?": r"10\.0\.0\.1:8443 .*has its max_sessions, 1",
    "What changed in the last hour?": r"listener draining|backend set",
    "What does each node run?": r"lb1 +running +\d+\.\d+\.\d+ +1 ",
    "Is a health check flapping?": (
        r"(?s)backend down \S+ backend=10\.0\.0\.3:8443 .*backend up \S+ backend=10\.0\.0\.3:8443 .*"
        r"backend down \S+ backend=10\.0\.0\.3:8443 reason=\"connect: connection refused\""
    ),
    "which backend does this client get, and why not the others?": r"passed over: 10\.0\.0\.3:8443: health down",
}
SLOW = "Which backend is slow?"  # in a situation of its own
SERVER = """
import socket, sys
listener, kept = socket.create_server((sys.argv[1], 8443)), []
while True:
    kept.append(listener.accept())
"""
CLIENTS = """
import socket, sys, time
def client(address, data):
    kept = socket.create_connection(("10.0.0.11", 8080), 60, (address, 0))
    kept.sendall(data)
    return kept
kept = [client("192.0.2.7", b"1"), client("192.0.2.7", b"1"), client("192.0.2.8", b"1" * 1000)]
try:
    client("192.0.2.66", b"").recv(1)
except ConnectionResetError:
    pass
open("connected", "w").close()
time.sleep(3600)
"""
SITUATION = """
cat >server.py <<'END'
{server}
END
cat >clients.py <<'END'
{clients}
END
cat >lb.toml <<'END'
[listeners.web]
bind = "10.0.0.11:8080"
pool = "web"
deny = ["192.0.2.66"]
per_source = {{ sessions = 100 }}
[pools.web]
backends = [{{ address = "10.0.0.1:8443", max_sessions = 1 }}, "10.0.0.2:8443", "10.0.0.3:8443"]
health = {{ interval = "200ms", fast_interval = "200ms", down_interval = "200ms", timeout = "10s" }}
END
etcd --data-dir etcd --listen-client-urls http://10.0.0.11:2379 --advertise-client-urls http://10.0.0.11:2379 \\
  --listen-peer-urls http://127.0.0.1:0 >etcd.log 2>&1 &
soon etcdctl get /
export L4LB_FLEET=etcd://10.0.0.11:2379/l4lb/prod
l4lb fleet config put lb.toml
for at in 1 2; do python3 server.py 10.0.0.$at & done
l4lb serve --config $L4LB_FLEET --node lb1 >serve.log 2>&1 &
soon grep "backend down .*10.0.0.3" serve.log
soon grep "backend up .*10.0.0.1" serve.log
soon grep "backend up .*10.0.0.2" serve.log
python3 server.py 10.0.0.3 &
flapping=$!
soon grep "backend up .*10.0.0.3" serve.log
kill $flapping
soon sh -c 'test "$(grep -c "backend down .*10.0.0.3" serve.log)" -ge 2'
python3 clients.py &
soon test -e connected
l4lb backend weight web 10.0.0.2:8443 5
"""


def questions() -> dict[str, str]:
    """The command for each."""
    text = PAGE.read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| (.*?\?) \| `(.*?)` \|", text, re.MULTILINE))
    more = re.search(r"And one more: (.*?\?) `(.*?)`", text)
    assert more is not None
    return {**found, more[1]: more[2]}


def test_there_are_twelve_and_each_has_an_answer() -> None:
    asked = questions()
    assert len(asked) == 13
    assert set(asked) - set(ANSWERS) == {SLOW}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command prints; those about the drain are asked last."""
    asked = sorted(questions().items(), key=lambda one: "drain" in one[0])
    script = SITUATION.format(server=SERVER, clients=CLIENTS)
    for number, (question, command) in enumerate(asked):
        script += "l4lb listener drain web --timeout 50m\n" if "drain" in question else ""
        command = command.replace("config diff", "config diff lb.toml")
        script += f"{{ {command} || true; }} >answer{number} 2>&1\n"
    directory = tmp_path_factory.mktemp("situation")
    run_in_a_place(directory, script, ADDRESSES)
    return {question: (directory / f"answer{number}").read_text() for number, (question, _) in enumerate(asked)}


@pytest.mark.parametrize("question", ANSWERS)
def test_the_command_answers(said: dict[str, str], question: str) -> None:
    assert re.search(ANSWERS[question], said[question]), said[question]


def test_which_backend_is_slow(tmp_path: Path) -> None:
    with two_backends(tmp_path) as (process, admin, _):
        visit(process.address("web"), SESSIONS)
        ended(admin, SESSIONS)
        said = forking.run(*questions()[SLOW].split()[1:], "--admin", admin).stdout
    assert re.search(r"(?m)^web +late .* slow: first byte p50 is ", said), said


def test_the_places_of_the_dashboard_are_there() -> None:
    page = Path("l4lb/control/admin/dashboard/index.html").read_text(encoding="utf-8")
    headings = set(re.findall(r"<h2[^>]*>(.*?)</h2>", page))
    rows = re.findall(r"^\| .*?\? \|.*\| ([^|]*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {re.split(r"[:,]", place)[0] for place in rows}
    assert len(named) >= 5
    assert named <= headings
