from __future__ import annotations

from typing import Any

import pytest

from l4lb.control.discovery.slices import Endpoint, Endpoints, endpoints_of, entries_of
from tests.support.kubernetes import NOT_READY, READY, TERMINATING, endpoint, endpoint_slice

HTTP, METRICS = {"name": "http", "port": 80}, {"name": "metrics", "port": 9100}


@pytest.mark.parametrize(
    ("ports", "port", "numbers", "remark"),
    [
        ([HTTP], 0, [80], ""),
        ([{"port": 80}], 0, [80], ""),
        ([HTTP, METRICS], "metrics", [9100], ""),
        ([HTTP, METRICS], 80, [80], ""),
        ([HTTP, METRICS], 0, [], "expected port, to choose one of http and metrics"),
        ([HTTP, METRICS], "https", [], "has no port https, only http (80), metrics (9100)"),
        ([HTTP], 81, [], "has no port 81, only http (80)"),
        (None, 81, [81], ""),
        (None, 0, [], "expected port, to choose one of none"),
        (None, "http", [], "has no port http, only none"),
    ],
)
def test_the_port(ports: Any, port: int | str, numbers: list[int], remark: str) -> None:
    found = endpoints_of(endpoint_slice("a", endpoint("10.0.0.1"), ports=ports), port)
    assert found == Endpoints(tuple(Endpoint(f"10.0.0.1:{number}") for number in numbers), remark)


@pytest.mark.parametrize(
    ("conditions", "draining"),
    [
        (None, False),
        ({}, False),
        ({"ready": None, "terminating": True}, False),
        (READY, False),
        ({**READY, "terminating": True}, False),
        (TERMINATING, True),
        ({"ready": False, "terminating": True}, None),
        ({"ready": False, "serving": True}, None),
        (NOT_READY, None),
    ],
)
def test_the_conditions(conditions: Any, draining: bool | None) -> None:
    found = endpoints_of(endpoint_slice("a", endpoint("10.0.0.1", conditions)), 80).endpoints
    assert [one.draining for one in found] == ([] if draining is None else [draining])


@pytest.mark.parametrize(
    "content",
    [
        {"endpoints": [{"addresses": ["10.0.0.1"]}]},
        {"addressType": "IPv4", "endpoints": [{"addresses": []}], "ports": [HTTP]},
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [5]},
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 0}]},
        {"addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [HTTP]},
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "zone": "x" * 256}], "ports": [HTTP]},
        {"addressType": "IPv4", "endpoints": "all", "ports": [HTTP]},
    ],
)
def test_what_is_no_slice(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|not an EndpointSlice"):
        endpoints_of(content, 0)


def test_a_slice_without_endpoints_is_fine_whatever_else_it_says() -> None:
    assert endpoints_of({"addressType": "FQDN", "endpoints": None}, "http") == Endpoints()


def test_ready_in_any_slice_is_ready_and_the_last_ones_serve_to_their_end() -> None:
    draining = Endpoints((Endpoint("10.0.0.1:80", draining=True), Endpoint("10.0.0.2:80", draining=True)))
    ready = Endpoints((Endpoint("10.0.0.1:80", zone="a"),))
    assert entries_of([draining, ready]) == [
        {"address": "10.0.0.1:80", "zone": "a"},
        {"address": "10.0.0.2:80", "admin_state": "drain"},
    ]
    assert entries_of([draining]) == [{"address": "10.0.0.1:80"}, {"address": "10.0.0.2:80"}]
