"""What a check makes of an instance's answers, and of those of whoever else listens there."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from l4lb.cli.addresses.asking import (
    ANSWER_BYTES_MAX,
    Instance,
    Readiness,
    Scope,
    Unanswered,
    parse_answer,
    parse_instance,
    split_answer,
)
from l4lb.errors import AdminError

READY = {"ready": True, "draining": False, "reasons": []}


def answer(body: object, status: int = 200) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(data),
        data,
    )


def test_a_shortage_of_its_own_says_nothing_of_the_instance() -> None:
    """EMFILE. An instance that is not there, ECONNREFUSED or ENOENT, is gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        instance = Instance(parse_instance(f"127.0.0.1:{server.getsockname()[1]}"), Scope())
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(Unanswered, match="Too many open files") as short:
                instance.ask(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not short.value.gone
    for one in (instance, Instance(parse_instance("unix:/nowhere/admin.sock"), Scope())):
        with pytest.raises(Unanswered) as absent:
            one.ask(10)
        assert absent.value.gone


@contextlib.contextmanager
def answering(*connections: list[bytes], hold: bool = False) -> Iterator[Instance]:
    """An instance that reads a request for each answer of a connection, and then closes it, or with `hold` keeps it
    open until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def run() -> None:
        for answers in connections:
            sock, _ = listener.accept()
            with sock:
                for one in answers:
                    if not sock.recv(65536):
                        break
                    sock.sendall(one)
                if hold:
                    over.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    instance = Instance(parse_instance(f"127.0.0.1:{listener.getsockname()[1]}"), Scope())
    try:
        yield instance
    finally:
        instance.close()
        over.set()
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "it was asked less often than expected"


def test_it_is_asked_for_parts_by_name() -> None:
    assert Scope().path == "/readyz?min_backends=1"
    assert Scope(("a b", "c&d"), ("ü",), 2).path == "/readyz?listener=a+b&listener=c%26d&pool=%C3%BC&min_backends=2"


@pytest.mark.parametrize("text", ["unix:/run/l4lb/admin.sock", "unix:@l4lb", "127.0.0.1:9900", "[::1]:9900",
                                  "localhost:9900", ":9900"])  # fmt: skip
def test_where_an_instance_may_be(text: str) -> None:
    assert parse_instance(text)


@pytest.mark.parametrize("text", ["lb.example:9900", "fd:admin", "127.0.0.1:80-90", "127.0.0.1", "unix:", ""])
def test_where_it_may_not_be(text: str) -> None:
    with pytest.raises(AdminError):
        parse_instance(text)


def test_an_answer_comes_in_pieces() -> None:
    whole = answer(READY)
    for length in range(len(whole)):
        assert split_answer(whole[:length]) is None
    found = split_answer(whole)
    assert found is not None
    assert parse_answer(*found) == Readiness(True, False, ())


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 ready OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\r\n",
        b"x" * (ANSWER_BYTES_MAX + 1),
    ],
)
def test_what_is_no_answer_of_l4lb(data: bytes) -> None:
    with pytest.raises(ValueError):
        split_answer(data)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"[]"),
        (200, b"7"),
        (200, b'{"status": "ok"}'),
        (200, b'{"ready": 1, "draining": false, "reasons": []}'),
        (200, b'{"ready": false, "draining": false, "reasons": []}'),
        (503, b'{"ready": true, "draining": false, "reasons": []}'),
        (503, b'{"ready": false, "draining": null, "reasons": []}'),
        (503, b'{"ready": false, "draining": false, "reasons": "no"}'),
        (503, b'{"ready": false, "draining": false, "reasons": [1]}'),
        (404, b'{"ready": false, "draining": false, "reasons": []}'),
        (200, b"[" * 100_000),
    ],
)
def test_what_is_no_readiness(status: int, body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_answer(status, body)


def test_reasons_are_lines() -> None:
    body = {"ready": False, "draining": False, "reasons": ["one\ntwo\x1b[2J", *["more"] * 100]}
    assert parse_answer(503, json.dumps(body).encode()).reasons == ("one?two?[2J", *["more"] * 19)


def test_a_connection_is_kept_and_opened_again_when_it_ends() -> None:
    with answering([answer(READY), answer(READY)], [answer(READY)]) as instance:
        for _ in range(3):
            assert instance.ask(30).ready


def test_bad_news_on_a_kept_connection_is_asked_for_again() -> None:
    """As from the old process of an upgrade."""
    drains = {"ready": False, "draining": True, "reasons": ["the process is draining"]}
    with answering([answer(READY), answer(drains, 503)], [answer(READY)]) as instance:
        assert instance.ask(30).ready
        assert instance.ask(30).ready
    with answering([answer(READY), answer(drains, 503)], [answer(drains, 503), answer(drains, 503)]) as instance:
        assert instance.ask(30).ready
        assert instance.ask(30).draining
        assert instance.ask(30).draining


def test_one_that_hangs_up_is_gone() -> None:
    with answering([answer(READY)], []) as instance:
        assert instance.ask(30).ready
        with pytest.raises(Unanswered) as failed:
            instance.ask(30)
        assert failed.value.gone


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for where in (f"127.0.0.1:{port}", "unix:/nowhere/admin.sock"):
        with pytest.raises(Unanswered) as failed:
            Instance(parse_instance(where), Scope()).ask(30)
        assert failed.value.gone


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", answer(READY)[:-1]])
def test_one_that_stalls_is_not_waited_for(sent: bytes) -> None:
    with answering([sent], hold=True) as instance:
        with pytest.raises(Unanswered) as failed:
            instance.ask(0.1)
        assert not failed.value.gone
        assert instance.connection is None


def test_one_that_sends_byte_by_byte_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        instance = Instance(parse_instance(f"127.0.0.1:{listener.getsockname()[1]}"), Scope())
        over = threading.Event()

        def drip() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                while not over.wait(0.01):
                    sock.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            begun = time.monotonic()
            with pytest.raises(Unanswered):
                instance.ask(0.2)
            assert time.monotonic() - begun < 20
        finally:
            over.set()
            thread.join()


def test_a_full_queue_of_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "s")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with pytest.raises(Unanswered) as failed:
            Instance(parse_instance(f"unix:{path}"), Scope()).ask(30)
        assert not failed.value.gone


def test_a_check_imports_little() -> None:
    """It is started each second: what takes longest to import stays out."""
    code = (
        "import sys\nfrom l4lb.cli.main import run\n"
        "sys.argv = ['l4lb', 'health', '--admin', 'unix:/nowhere', '--timeout', '1s']\nprint(run())\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} | set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("1\n"), done.stderr
    names = done.stdout.partition("\n")[2]
    for slow in ("asyncio", "rich", "pydantic", "aiohttp", "ssl", "http.client", "l4lb.client", "l4lb.model.snapshot"):
        assert f"'{slow}'" not in names, slow
