"""Where packets for a service come in."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.attaching import packet_devices, ways_for
from tests.support.namespaces import in_namespace
from tests.support.programs import run


def test_devices() -> None:
    def check() -> None:
        devices = {"front": "10.9.1.1/24", "back": "10.9.2.1/24", "six": "fd09::1/64", "off0": "10.9.3.1/24"}
        for name, address in devices.items():
            run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            run("ip", "addr", "add", address, "dev", name, "nodad")
            if name != "off0":
                run("ip", "link", "set", name, "up")
                run("ip", "link", "set", f"{name}-peer", "up")
        run("ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
        four, six = socket.AF_INET, socket.AF_INET6
        assert packet_devices(four, ["10.9.1.1"], all_of_them=False) == ["front"]
        assert packet_devices(four, ["10.9.1.1"], all_of_them=True) == ["back", "front"]
        assert packet_devices(six, ["fd09::1"], all_of_them=False) == ["six"]
        assert packet_devices(four, ["203.0.113.1"], all_of_them=False) == []
        run("ip", "route", "add", "default", "via", "10.9.2.2", "onlink", "dev", "back")
        assert packet_devices(four, ["203.0.113.1"], all_of_them=False) == ["back"]
        assert packet_devices(four, ["203.0.113.1", "10.9.1.1"], all_of_them=False) == ["back", "front"]
        assert packet_devices(four, ["198.51.100.1"], all_of_them=False) == ["back"]

    in_namespace(check)


def test_ways() -> None:
    assert list(ways_for("lo", "auto")) == ["tcx", "generic"]
    assert list(ways_for("eth0", "native")) == ["native"]
