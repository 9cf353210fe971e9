"""etcd's v3 API by its JSON gateway: keys and values are base64, numbers of 64 bits are strings. Control loop.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l4lb.net.files import read_text
from l4lb.net.services.json_api import Access, ApiError, JsonApi

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True, slots=True)
class Login:
    """Of etcd's own authentication; an empty `user`: none."""

    user: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    revision: int = 0  # of its last change

    @classmethod
    def of(cls, said: Mapping[str, str]) -> KeyValue:
        key = base64.b64decode(said["key"]).decode(errors="replace")
        return cls(key, base64.b64decode(said.get("value", "")), int(said.get("mod_revision", 0)))


@dataclass(frozen=True, slots=True)
class Change:
    """Of one key; without a value it is gone."""

    kv: KeyValue
    gone: bool = False


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def prefix_range(prefix: str) -> dict[str, str]:
    """All keys that begin with it: up to the first that does not."""
    first = prefix.encode()
    last = first.rstrip(b"\xff")
    end = last[:-1] + bytes([last[-1] + 1]) if last else b"\0"
    return {"key": encoded(first), "range_end": encoded(end)}


class Etcd:
    """One server. Raises ApiError with the reason whenever it does not answer as it should."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, access: Access, login: Login) -> None:
        self._api = JsonApi(session, endpoint.rstrip("/"), access.timeout_s)
        self._login = login

    async def log_in(self) -> None:
        """If there is a user. Its token is good for some minutes, or for as long as a watch lasts."""
        if not self._login.user:
            return
        file = self._login.password_file
        try:
            password = (await asyncio.to_thread(read_text, file)).strip()
        except (OSError, ValueError) as error:
            raise ApiError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        said = await self.ask("/v3/auth/authenticate", {"name": self._login.user, "password": password})
        self._api.headers = {"Authorization": str(said.get("token", ""))}

    async def ask(self, path: str, what: Mapping[str, Any]) -> Mapping[str, Any]:
        said = (await self._api.ask("POST", path, body=what)).content
        return self._checked(said)

    async def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        """All keys with this prefix, in their order, and the revision at which they were read."""
        said = await self.ask("/v3/kv/range", prefix_range(prefix))
        try:
            return [KeyValue.of(one) for one in said.get("kvs", [])], int(said["header"]["revision"])
        except (KeyError, TypeError, ValueError):
            raise self._api.failed("not an answer of etcd") from None

    async def is_there(self, prefix: str) -> None:
        """ApiError when it is not, or may not be asked for these keys."""
        await self.ask("/v3/kv/range", {**prefix_range(prefix), "count_only": True})

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Change], None]:
        """The changes from that revision on, as they come; ApiError once there will be no more."""
        wanted = {"create_request": {**prefix_range(prefix), "start_revision": str(revision)}}
        async for message in self._api.stream("POST", "/v3/watch", body=wanted):
            result = self._checked(message).get("result", {})
            if result.get("canceled"):
                reason = result.get("cancel_reason") or "its start was compacted"
                raise self._api.failed(f"the watch was ended: {reason}")
            if events := result.get("events"):
                yield [Change(KeyValue.of(one["kv"]), one.get("type") == "DELETE") for one in events]

    def _checked(self, said: Any) -> Mapping[str, Any]:
        error = said.get("error") if isinstance(said, dict) else "not an answer of etcd"
        if error or not isinstance(said, dict):
            raise self._api.failed(str(error.get("message", error) if isinstance(error, dict) else error))
        return said
