"""The examples of hooks, as their readers would start them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.support.hellos import real
from tests.support.peers import greeting, read_until_end, serving
from tests.support.programs import l4lb

EXAMPLES = Path("examples/hooks")


def answer(address: tuple[str, int], client: str, sent: bytes) -> bytes:
    with socket.create_connection(address, timeout=30, source_address=(client, 0)) as sock:
        sock.sendall(sent)
        said, was_reset = read_until_end(sock)
        assert not was_reset
        return said


def test_customers_of_the_canary_go_there_by_name_and_by_address(tmp_path: Path) -> None:
    with serving(greeting(b"web")) as web, serving(greeting(b"canary")) as canary:
        text = (EXAMPLES / "lb.toml").read_text().replace("127.0.0.1:8443", "127.0.0.1:0")
        text = text.replace("127.0.0.1:9001", web.address).replace("127.0.0.1:9002", canary.address)
        file = tmp_path / "lb.toml"
        file.write_text(text)
        environment = {"PYTHONPATH": f"{EXAMPLES.absolute()}:{os.getcwd()}"}
        with l4lb("serve", "-c", str(file), environment=environment) as process:
            address = process.address("web")
            process.wait_for("backend up.*pool=web|pool=web.*backend up")
            process.wait_for("backend up.*pool=canary|pool=canary.*backend up")
            assert answer(address, "127.0.0.1", real("other.example.com")) == b"web"
            assert answer(address, "127.0.0.1", real("acme.example.com")) == b"canary"
            assert answer(address, "127.0.0.17", real("other.example.com")) == b"canary"
            assert "hook failed" not in process.log
