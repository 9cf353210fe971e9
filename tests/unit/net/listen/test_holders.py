"""Who holds an address, for error messages: the process where it is found in time, and no guess where it is not."""

from __future__ import annotations

import os
import socket

import pytest

from l4lb.model.address import SocketAddress
from l4lb.net.listen import holders


def test_the_holder_is_named_or_is_just_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = SocketAddress(socket.AF_INET, *held.getsockname())
        said = holders.taken_by(address, socket.SOCK_STREAM)
        assert said.startswith(f": port {address.port} is taken by ")
        assert said.endswith(f" (pid {os.getpid()})")
        assert holders.taken_by(address, socket.SOCK_STREAM, [held]) == ""
        monkeypatch.setattr(holders, "_SEARCH_WITHIN_S", -1.0)  # as on a host with more processes than the time allows
        assert holders.taken_by(address, socket.SOCK_STREAM) == f": port {address.port} is taken by another process"
