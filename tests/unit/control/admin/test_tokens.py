"""Several tokens, of which some only read; and whom the events of changes name."""

from __future__ import annotations

import asyncio
import getpass
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from l4lb import AdminError, Client, ConfigError, LoadBalancer
from l4lb.cli.shared.connection import read_token
from l4lb.config import AdminConfig
from l4lb.model.tokens import Token, first_token, parse_tokens
from tests.support.balancing import make_config

TOKENS = "# who may\n\nsecret-1 alice\nsecret-2 grafana read-only\nsecret-3\nsecret-4 ci admin\n"


def with_admin(bind: str, tokens: Path | None = None) -> LoadBalancer:
    admin = AdminConfig(bind=bind, token_file=str(tokens or ""))
    return LoadBalancer(make_config(["127.0.0.1:1"]).model_copy(update={"admin": admin}))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    return file


def last_event(balancer: LoadBalancer) -> dict[str, Any]:
    with balancer.events(last=1, follow=False) as events:
        (event,) = events
    return {"kind": event.kind, **event.fields}


def test_the_file() -> None:
    assert parse_tokens(TOKENS) == [
        Token("secret-1", "alice"),
        Token("secret-2", "grafana", read_only=True),
        Token("secret-3"),
        Token("secret-4", "ci"),
    ]
    assert first_token(TOKENS) == "secret-1"
    assert first_token("only\n") == "only"
    assert "secret" not in repr(parse_tokens(TOKENS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret a readonly", "line 1: expected TOKEN, or TOKEN NAME, or TOKEN NAME read-only"),
        ("\nsecret a admin more", "line 2: expected TOKEN"),
        ("secret a\nsecret b", "line 2: the same token again"),
        ("one a\ntwo a", 'line 2: the name "a" again'),
        ("# nothing\n", "the file is empty; expected a token"),
    ],
)
def test_a_wrong_file_is_an_error_that_does_not_show_the_token(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught, with_admin("127.0.0.1:0", file):
        pass
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_commands_send_the_first_of_a_file(tokens: Path, tmp_path: Path) -> None:
    assert read_token(str(tokens)) == "secret-1"
    assert read_token(None) == ""
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "role").write_text("secret me both\n")
    for name, reason in (
        ("empty", "the file is empty; expected a token"),
        ("none", "cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("binary", "cannot be read: not UTF-8"),
        ("role", "line 1: expected TOKEN, or TOKEN NAME, or TOKEN NAME read-only"),
    ):
        with pytest.raises(click.BadParameter) as caught:
            read_token(str(tmp_path / name))
        assert caught.value.message == f"{tmp_path / name}: {reason}"
    with pytest.raises(click.BadParameter, match="a device, expected a file"):
        read_token("/dev/zero")


def test_a_token_for_reading_changes_nothing(tokens: Path) -> None:
    with with_admin("127.0.0.1:0", tokens) as balancer, Client(balancer.admin_address, token="secret-2") as client:
        assert client.status()["state"] == "running"
        assert client.config["pools"]["web"]["policy"] == "round_robin"
        for change in (
            lambda: client.pools["web"].add("127.0.0.1:2"),
            lambda: client.pools["web"].remove("127.0.0.1:1"),
            lambda: client.bans.add("192.0.2.1"),
            lambda: client.kill_sessions(pool="web"),
            lambda: client.drain(wait=False),
            client.reload,
            client.upgrade,
        ):
            with pytest.raises(AdminError, match='the token "grafana" is for reading alone') as caught:
                change()
            assert (caught.value.status, caught.value.code) == (403, "forbidden")
        assert list(balancer.pools["web"]) == ["127.0.0.1:1"]
        assert balancer.status()["state"] == "running"


@pytest.mark.parametrize(
    ("secret", "by"), [("secret-1", "alice at 127.0.0.1"), ("secret-3", "127.0.0.1"), ("secret-4", "ci at 127.0.0.1")]
)
def test_events_name_the_token(secret: str, by: str, tokens: Path) -> None:
    with with_admin("127.0.0.1:0", tokens) as balancer, Client(balancer.admin_address, token=secret) as client:
        client.pools["web"].add("127.0.0.1:2")
        assert last_event(balancer) == {"kind": "backend_set", "pool": "web", "backend": "127.0.0.1:2", "by": by}


@pytest.mark.parametrize(
    ("secret", "by", "read_only"),
    [("secret-1", "alice at 127.0.0.1", False), ("secret-2", "grafana at 127.0.0.1", True)],
)
def test_a_client_can_ask_who_it_is(secret: str, by: str, read_only: bool, tokens: Path) -> None:
    with with_admin("127.0.0.1:0", tokens) as balancer, Client(balancer.admin_address, token=secret) as client:
        assert client.ask("GET", "/v1/whoami") == {"by": by, "read_only": read_only}


def test_without_tokens_everybody_may_change_something(tmp_path: Path) -> None:
    with with_admin(f"unix:{tmp_path}/admin.sock") as balancer, Client(balancer.admin_address) as client:
        me = f"{getpass.getuser()} (pid {os.getpid()})"
        assert client.ask("GET", "/v1/whoami") == {"by": me, "read_only": False}


def test_events_name_the_user_and_the_process_at_a_unix_socket(tmp_path: Path) -> None:
    me = f"{getpass.getuser()} (pid {os.getpid()})"
    with with_admin(f"unix:{tmp_path}/admin.sock") as balancer, Client(balancer.admin_address) as client:
        client.pools["web"].add("127.0.0.1:2", weight=3)
        assert last_event(balancer)["by"] == me
        client.pools["web"].remove("127.0.0.1:2")
        assert last_event(balancer) == {"kind": "backend_removed", "pool": "web", "backend": "127.0.0.1:2", "by": me}
        client.bans.add("192.0.2.1")
        assert (last_event(balancer)["kind"], last_event(balancer)["by"]) == ("banned", me)
        client.bans.remove("192.0.2.1")
        assert (last_event(balancer)["kind"], last_event(balancer)["by"]) == ("unbanned", me)
        client.kill_sessions(pool="web")
        assert (last_event(balancer)["kind"], last_event(balancer)["by"]) == ("sessions_ended", me)
        (listener,) = client.listeners.values()
        listener.drain()
        named = [event for event in balancer.events(last=5, follow=False) if event.kind == "listener_draining"]
        assert [event.fields["by"] for event in named] == [me]


def test_a_directory_that_does_not_answer_delays_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the user may come from the network."""
    over = threading.Event()

    def hung(uid: int) -> object:
        assert over.wait(60)
        raise KeyError(uid)

    monkeypatch.setattr("l4lb.control.admin.guard.pwd.getpwuid", hung)
    with with_admin(f"unix:{tmp_path}/admin.sock") as balancer, Client(balancer.admin_address) as client:
        try:
            client.pools["web"].add("127.0.0.1:2")
            assert last_event(balancer)["by"] == f"uid {os.getuid()} (pid {os.getpid()})"
        finally:
            over.set()


def test_no_change_fails_for_want_of_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would have found the name of the user."""

    def none_left(*_: object) -> object:
        raise RuntimeError("can't start new thread")

    with with_admin(f"unix:{tmp_path}/admin.sock") as balancer, Client(balancer.admin_address) as client:
        lacking = SimpleNamespace(to_thread=none_left, timeout=asyncio.timeout)
        monkeypatch.setattr("l4lb.control.admin.guard.asyncio", lacking)
        client.bans.add("192.0.2.1")
        assert last_event(balancer)["by"] == f"uid {os.getuid()} (pid {os.getpid()})"


def test_what_the_program_itself_does_names_nobody_after_somebody_asked(tmp_path: Path) -> None:
    with with_admin(f"unix:{tmp_path}/admin.sock") as balancer, Client(balancer.admin_address) as client:
        client.pools["web"].add("127.0.0.1:2")
        balancer.pools["web"].add("127.0.0.1:3")
        assert last_event(balancer) == {"kind": "backend_set", "pool": "web", "backend": "127.0.0.1:3"}
