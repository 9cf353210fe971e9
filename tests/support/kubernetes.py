"""A stand-in for a Kubernetes API server: EndpointSlices, listed in parts and watched, as its documentation says."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from tests.support.standing_in import StandIn

READY = {"ready": True, "serving": True, "terminating": False}
NOT_READY = {"ready": False, "serving": False, "terminating": False}
TERMINATING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
HTTP: dict[str, Any] = {"name": "http", "protocol": "TCP", "port": 80}


def endpoint(host: str, conditions: dict[str, Any] | None = READY, zone: str = "") -> dict[str, Any]:
    """`conditions` None: it does not say."""
    said: dict[str, Any] = {"addresses": [host], "targetRef": {"kind": "Pod", "name": f"pod-{host}"}}
    return said | ({} if conditions is None else {"conditions": conditions}) | ({"zone": zone} if zone else {})


def endpoint_slice(
    name: str,
    *endpoints: dict[str, Any],
    ports: Sequence[dict[str, Any]] | None = (HTTP,),
    family: str = "IPv4",
    service: str = "web",
) -> dict[str, Any]:
    about = {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}}
    return {
        "metadata": about,
        "addressType": family,
        "endpoints": list(endpoints) or None,
        "ports": None if ports is None else list(ports),
    }


class Kubernetes(StandIn):
    """`token`: what clients have to show. `page`: the most that is listed at once. `forgets`: so many more lists are
    forgotten in the middle. `gone_as_status`: 410 for a watch is an answer of HTTP, not an event."""

    def __init__(self, tls: tuple[str, str] | None = None, *, mutual: bool = False) -> None:
        self.token = ""
        self.page = 500
        self.forgets = 0
        self.gone_as_status = False
        self._version = self._oldest = 100
        self._slices: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._generation = 0
        self._cut = b""
        super().__init__(tls, mutual=mutual)

    # ---- what happens in the cluster ----

    def put(self, *slices: dict[str, Any]) -> None:
        for one in slices:
            self._version += 1
            one["metadata"]["resourceVersion"] = str(self._version)
            kind = "MODIFIED" if one["metadata"]["name"] in self._slices else "ADDED"
            self._slices[one["metadata"]["name"]] = one
            self._events.append((self._version, {"type": kind, "object": one}))
        self.wake()

    def delete(self, name: str) -> None:
        self._version += 1
        gone = self._slices.pop(name)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, {"type": "DELETED", "object": gone}))
        self.wake()

    def say(self, message: dict[str, Any]) -> None:
        """To those that watch."""
        self._version += 1
        self._events.append((self._version, message))
        self.wake()

    def bookmark(self) -> None:
        version = {"resourceVersion": str(self._version + 1)}
        self.say({"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": version}})

    def compact(self) -> None:
        """Nobody can go on from a version before this one."""
        self._version += 1
        self._oldest, self._events = self._version, []

    def end_watches(self, cut: bytes = b"") -> None:
        """In order; or in the middle, after these bytes."""
        self._generation += 1
        self._cut = cut
        self.wake()

    # ---- what it answers ----

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if request.path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices":
            return _status(403, 'endpointslices.discovery.k8s.io is forbidden: User "l4lb" cannot list resource')
        if request.query.get("watch") == "1":
            return await self._watch(request)
        return self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        """A token to go on has the version of the first part; nothing changes while tests list."""
        first = int(request.query.get("continue", "0").rpartition("/")[2])
        if first and self.forgets:
            self.forgets -= 1
            return _status(410, "The provided continue parameter is too old")
        found = [one for one in self._slices.values() if _wanted(one, request)]
        end = first + min(int(request.query["limit"]), self.page)
        more = {"continue": f"{self._version}/{end}"} if end < len(found) else {}
        about = {"resourceVersion": str(self._version), **more}
        return web.json_response({"kind": "EndpointSliceList", "metadata": about, "items": found[first:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version, generation = int(request.query["resourceVersion"]), self._generation
        too_old = f"too old resource version: {version} ({self._oldest})"
        if version < self._oldest and self.gone_as_status:
            return _status(410, too_old)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if version < self._oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": too_old}
            await response.write(_line({"type": "ERROR", "object": gone}))
            return response
        until = time.monotonic() + int(request.query["timeoutSeconds"])
        while generation == self._generation and (left_s := until - time.monotonic()) > 0:
            for happened, event in [one for one in self._events if one[0] > version]:
                version = happened
                if _matters(event, request):
                    await response.write(_line(event))
            await self.next_change(left_s)
            await self.stuck()
        if self._cut:
            await response.write(self._cut)
            assert request.transport is not None
            request.transport.close()
        return response


def _wanted(one: dict[str, Any], request: web.Request) -> bool:
    label, _, value = request.query["labelSelector"].partition("=")
    return bool(one["metadata"]["labels"].get(label) == value)


def _matters(event: dict[str, Any], request: web.Request) -> bool:
    """What is no event of a slice goes to all."""
    about = event["object"].get("metadata", {})
    return "labels" not in about or _wanted(event["object"], request)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)


@contextlib.contextmanager
def kubernetes(tls: tuple[str, str] | None = None, *, mutual: bool = False) -> Iterator[Kubernetes]:
    server = Kubernetes(tls, mutual=mutual)
    try:
        server.start()
        yield server
    finally:
        server.close()
