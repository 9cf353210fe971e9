"""examples/allow-list-postgresql as its readers run it, with a PostgreSQL that is changed, stopped and started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import greeting, read_until_end, serving
from tests.support.programs import L4lb, l4lb, without_preload
from tests.support.servers import Program, postgres, postgres_program
from tests.support.waiting import wait_until

EXAMPLE = Path("examples/allow-list-postgresql").resolve()
pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def database() -> Iterator[Program]:
    with postgres() as server:
        yield server


def environment_of(database: Program) -> dict[str, str]:
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    return {**where, "PYTHONPATH": f"{EXAMPLE}:{os.getcwd()}"}


def psql(database: Program, *arguments: str) -> None:
    command = [postgres_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments]
    environment = {**without_preload(), **environment_of(database)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def table(database: Program) -> Iterator[Program]:
    """A database with the example's table, in which two networks are."""
    psql(database, "-f", str(EXAMPLE / "schema.sql"))
    psql(database, "-c", "INSERT INTO allowed VALUES ('127.0.0.2'), ('127.0.7.0/24'), ('2001:db8::/32')")
    yield database
    psql(database, "-c", "DROP TABLE allowed; DROP FUNCTION allowed_has_changed")


def stop(database: Program) -> None:
    database.stop(signal.SIGINT)


def start(database: Program) -> None:
    database.start()
    database.wait_for(lambda: "ready to accept connections" in database.log)


@contextlib.contextmanager
def balancer(database: Program, directory: Path) -> Iterator[L4lb]:
    with serving(greeting(b"hello")) as server:
        text = (EXAMPLE / "lb.toml").read_text()
        file = directory / "lb.toml"
        file.write_text(text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9001", server.address))
        with l4lb("serve", "-c", str(file), environment=environment_of(database)) as process:
            process.wait_for("backend up")
            yield process


def is_allowed(balancer: L4lb, client: str) -> bool:
    try:
        with socket.create_connection(balancer.address("web"), timeout=30, source_address=(client, 0)) as sock:
            return read_until_end(sock) == (b"hello", False)
    except ConnectionResetError:
        return False


def test_clients_of_the_table_are_served_and_changes_hold_at_once(table: Program, tmp_path: Path) -> None:
    with balancer(table, tmp_path) as process:
        assert is_allowed(process, "127.0.0.2"), process.log  # the first session waits for the table
        assert is_allowed(process, "127.0.7.200")
        assert not is_allowed(process, "127.0.0.3")
        psql(table, "-c", "INSERT INTO allowed VALUES ('127.0.0.3')")
        assert wait_until(lambda: is_allowed(process, "127.0.0.3"), 30)  # before it would be read anyway
        psql(table, "-c", "DELETE FROM allowed WHERE network = '127.0.0.2'")
        assert wait_until(lambda: not is_allowed(process, "127.0.0.2"), 30)
        process.wait_for("allow-list read networks=3")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "Task was destroyed" not in process.log


def test_what_is_known_goes_on_while_the_database_is_down(table: Program, tmp_path: Path) -> None:
    with balancer(table, tmp_path) as process:
        assert is_allowed(process, "127.0.0.2")
        with table.stopped():  # one that hangs delays nobody
            assert is_allowed(process, "127.0.7.1")
            assert not is_allowed(process, "127.0.0.3")
        stop(table)
        try:
            process.wait_for("warning allow-list cannot be read, what is known goes on reason=.* networks=3")
            process.signal(signal.SIGHUP)  # the module of the hook is loaded again, the cache is not
            process.wait_for("reloaded")
            assert is_allowed(process, "127.0.7.1")
            assert not is_allowed(process, "127.0.0.3")
        finally:
            start(table)
        psql(table, "-c", "INSERT INTO allowed VALUES ('127.0.0.3')")
        assert wait_until(lambda: is_allowed(process, "127.0.0.3"))
        process.wait_for("(?s)cannot be read.*allow-list read")
        assert process.log.count("allow-list cannot be read") == 1


def test_before_anything_was_read_on_error_decides(database: Program, tmp_path: Path) -> None:
    with balancer(database, tmp_path) as process:  # there is no table
        assert not is_allowed(process, "127.0.0.2")
        process.wait_for("hook failed .*NotRead: .*UndefinedTable")
        psql(database, "-f", str(EXAMPLE / "schema.sql"))
        psql(database, "-c", "INSERT INTO allowed VALUES ('127.0.0.2')")
        try:
            assert wait_until(lambda: is_allowed(process, "127.0.0.2"))
            assert not is_allowed(process, "127.0.0.3")
        finally:
            psql(database, "-c", "DROP TABLE allowed; DROP FUNCTION allowed_has_changed")
