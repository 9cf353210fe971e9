"""The EndpointSlices of a Service, by Kubernetes' API: listed in parts, and watched. Control loop.

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l4lb.net.services.json_api import ApiError, JsonApi, secret_in

if TYPE_CHECKING:
    import aiohttp

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # what each pod gets: token, ca.crt, namespace
NOT_IN_A_CLUSTER = "KUBERNETES_SERVICE_HOST is not set"
GONE = 410  # of HTTP, and in events: the server does not know that version any more
LIMIT = 500  # slices in one part of a list
LISTS_MAX = 3  # begun anew because the server forgot, in the middle, what it was listing
_WRONG = "not an answer of Kubernetes"


def cluster_endpoint() -> str:
    """Of the cluster that this process runs in; empty when it runs in none."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return host and f"https://[{host}]:{port}" if ":" in host else host and f"https://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Slices:
    """Whose slices, and by which token; empty: none."""

    service: str
    namespace: str
    token_file: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """`slice` is as it is now, or has been removed; None: nothing has changed up to `version`."""

    version: str
    slice: Slice | None = None
    gone: bool = False


class Kubernetes:
    """One API server. Raises ApiError with the reason whenever it does not answer as it should."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, timeout_s: float, slices: Slices) -> None:
        self._api = JsonApi(session, endpoint, timeout_s)
        self._slices = slices
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{slices.namespace}/endpointslices"
        self._selector = {"labelSelector": f"kubernetes.io/service-name={slices.service}"}

    async def all(self) -> tuple[list[Slice], str]:
        """All slices, and the version at which they were read."""
        for again in range(LISTS_MAX):
            try:
                return await self._list()
            except ApiError as error:
                if error.status != GONE or again == LISTS_MAX - 1:
                    raise
        raise AssertionError

    async def _list(self) -> tuple[list[Slice], str]:
        found: list[Slice] = []
        more = {"limit": str(LIMIT)}
        while True:
            said = await self._ask(more)
            items, about = said.get("items") or [], said.get("metadata")
            if said.get("kind") != "EndpointSliceList" or not isinstance(items, list) or not isinstance(about, dict):
                raise self._api.failed(f"{_WRONG}, expected an EndpointSliceList")
            found += [self._slice(one) for one in items]
            if not about.get("continue"):
                return found, self._version(said)
            more = {"limit": str(LIMIT), "continue": str(about["continue"])}

    async def is_there(self) -> None:
        """ApiError when it is not, or may not be asked for these slices. Any version will do: the server need not ask
        its database."""
        await self._ask({"limit": "1", "resourceVersion": "0"})

    async def watch(self, version: str, within_s: int) -> AsyncGenerator[Event, None]:
        """What has changed since that version, as it happens. ApiError at the end, StreamEnded after `within_s`; with
        the status GONE the version is too old to go on from."""
        await self._identify()
        wanted = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        params = {**self._selector, **wanted, "timeoutSeconds": str(within_s)}
        async for message in self._api.stream("GET", self._path, params=params):
            yield self._event(message)

    async def _ask(self, params: Mapping[str, str]) -> Mapping[str, Any]:
        await self._identify()
        said = (await self._api.ask("GET", self._path, params={**self._selector, **params})).content
        if not isinstance(said, dict):
            raise self._api.failed(_WRONG)
        return said

    async def _identify(self) -> None:
        """By a token that is read each time: that of a pod is replaced every hour."""
        if self._slices.token_file:
            self._api.headers = {"Authorization": f"Bearer {await secret_in(self._slices.token_file)}"}

    def _event(self, message: Any) -> Event:
        kind, what = (message.get(key) if isinstance(message, dict) else None for key in ("type", "object"))
        if not isinstance(what, dict):
            raise self._api.failed(f"{_WRONG}, expected an event")
        if kind == "ERROR":
            code = what.get("code")
            reason = what.get("message") or what.get("reason") or "an error without a reason"
            raise self._api.failed(f"the watch was ended: {reason}", code if isinstance(code, int) else 0)
        if kind == "BOOKMARK":
            return Event(self._version(what))
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            raise self._api.failed(f'{_WRONG}, an event of the unknown type "{kind}"')
        return Event(self._version(what), self._slice(what), gone=kind == "DELETED")

    def _slice(self, said: Any) -> Slice:
        about = said.get("metadata") if isinstance(said, dict) else None
        name = about.get("name") if isinstance(about, dict) else None
        if not isinstance(name, str) or not name:
            raise self._api.failed(f"{_WRONG}, expected an EndpointSlice with a name")
        return Slice(name, said)

    def _version(self, said: Mapping[str, Any]) -> str:
        about = said.get("metadata")
        version = about.get("resourceVersion") if isinstance(about, dict) else None
        if not isinstance(version, str) or not version:
            raise self._api.failed(f"{_WRONG}, it has no resourceVersion")
        return version
