"""A stand-in for a Consul agent: `/v1/health/service/NAME` with blocking queries, as HashiCorp documents them."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from tests.support.standing_in import StandIn

PATH = "/v1/health/service/"


def instance(
    address: str,
    id_: str = "",
    *,
    checks: Sequence[str] = ("passing",),
    tags: Sequence[str] = (),
    weights: tuple[Any, Any] = (1, 1),
    node_address: str = "192.0.2.1",
) -> dict[str, Any]:
    """Of a service at HOST:PORT; without a host it is at the address of its node."""
    host, _, port = address.rpartition(":")
    passing, warning = weights
    return {
        "Node": {"ID": "40e4a748", "Node": "node1", "Address": node_address, "Datacenter": "dc1", "Meta": {}},
        "Service": {
            "ID": id_ or address, "Service": "web", "Tags": list(tags), "Address": host.strip("[]"), "Port": int(port),
            "Weights": {"Passing": passing, "Warning": warning}, "ModifyIndex": 7,
        },
        "Checks": [
            {"Node": "node1", "CheckID": f"check:{number}", "Status": status, "Output": f"measured at {time.time()}"}
            for number, status in enumerate(["passing", *checks])
        ],
    }  # fmt: skip


class Consul(StandIn):
    """`token`: what clients have to show, where it is not empty."""

    def __init__(self, tls: tuple[str, str] | None = None, *, mutual: bool = False) -> None:
        self.index = 10
        self.token = ""
        self.headers: dict[str, str] = {}
        self._services: dict[str, list[dict[str, Any]]] = {}
        super().__init__(tls, mutual=mutual)

    def put(self, *instances: dict[str, Any], name: str = "web", index: int = 0) -> None:
        """These are all that the service has; `index` is otherwise the next one."""
        self._services[name] = list(instances)
        self.index = index or self.index + 1
        self.wake()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.path.startswith(PATH), request.path
        if request.query.get("dc", "dc1") != "dc1":
            return web.Response(status=500, text="No path to datacenter")
        token = request.headers.get("X-Consul-Token", "")
        if token != self.token:
            text = "ACL not found" if token else "Permission denied: anonymous token lacks permission 'service:read'"
            return web.Response(status=403, text=text)
        await self._block(int(request.query.get("index", 0)), request.query.get("wait", "300000ms"))
        await self.stuck()
        found = self._found(request)
        return web.json_response(found, headers={"X-Consul-Index": str(self.index), **self.headers})

    async def _block(self, index: int, wait: str) -> None:
        """Until the index exceeds the client's, which for 0 it does."""
        wait_s = int(wait.removesuffix("ms")) / 1000
        until = time.monotonic() + wait_s * random.uniform(1, 17 / 16)
        while index >= self.index and index and (left_s := until - time.monotonic()) > 0:
            await self.next_change(left_s)

    def _found(self, request: web.Request) -> list[dict[str, Any]]:
        """As the parameters want them; in any order."""
        found = self._services.get(request.path.removeprefix(PATH), [])
        tags = set(request.query.getall("tag", []))
        found = [one for one in found if not tags or tags <= set(one["Service"]["Tags"])]
        if "passing" in request.query:
            found = [one for one in found if {check["Status"] for check in one["Checks"]} == {"passing"}]
        return random.sample(found, len(found))


@contextlib.contextmanager
def consul(tls: tuple[str, str] | None = None, *, mutual: bool = False) -> Iterator[Consul]:
    server = Consul(tls, mutual=mutual)
    try:
        server.start()
        yield server
    finally:
        server.close()
