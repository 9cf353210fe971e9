"""etcd's v3 API by its JSON gateway: keys and values are base64, numbers of 64 bits are strings. Control loop.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from l4lb.net.services.json_api import Access, JsonApi, secret_in

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
Op = Mapping[str, Any]  # of a transaction: a comparison, or something to be done


@dataclass(frozen=True, slots=True)
class Login:
    """Of etcd's own authentication; an empty `user`: none."""

    user: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """`revision` is that of its last change, `version` how many there were since it was created; `lease` 0: it has
    none."""

    key: str
    value: bytes
    revision: int = 0
    version: int = 0
    lease: int = 0

    @classmethod
    def of(cls, said: Mapping[str, str]) -> KeyValue:
        key = base64.b64decode(said["key"]).decode(errors="replace")
        numbers = (int(said.get(name, 0)) for name in ("mod_revision", "version", "lease"))
        return cls(key, base64.b64decode(said.get("value", "")), *numbers)


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


@dataclass(frozen=True, slots=True)
class Done:
    """What a transaction did. `succeeded`: its comparisons held. `found` has an item for each operation that was
    carried out: the keys of a range, none for a put, and for a transaction within it what that did."""

    succeeded: bool
    revision: int
    found: Sequence[Sequence[KeyValue] | Done]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Done:
        found = [_found(one) for one in said.get("responses", [])]
        return cls(bool(said.get("succeeded", False)), int(said["header"].get("revision", 0)), found)

    @property
    def kvs(self) -> list[KeyValue]:
        """Of all ranges, in their order."""
        return [kv for one in self.found if not isinstance(one, Done) for kv in one]


def _changes(events: Sequence[Mapping[str, Any]]) -> list[Change]:
    return [Change(KeyValue.of(one["kv"]), one.get("type") == "DELETE") for one in events]


def _found(response: Mapping[str, Any]) -> list[KeyValue] | Done:
    if "response_txn" in response:
        return Done.of(response["response_txn"])
    return [KeyValue.of(one) for one in response.get("response_range", {}).get("kvs", [])]


# ---- parts of a transaction ----


def get_op(key: str) -> Op:
    return {"request_range": {"key": encoded(key.encode())}}


def range_op(prefix: str) -> Op:
    return {"request_range": prefix_range(prefix)}


def put_op(key: str, value: bytes, lease: int = 0) -> Op:
    return {"request_put": {"key": encoded(key.encode()), "value": encoded(value), "lease": str(lease)}}


def delete_op(key: str) -> Op:
    return {"request_delete_range": {"key": encoded(key.encode())}}


def delete_up_to(first: str, end: str) -> Op:
    """The keys from `first` on that come before `end`."""
    return {"request_delete_range": {"key": encoded(first.encode()), "range_end": encoded(end.encode())}}


def txn_op(compare: Sequence[Op], success: Sequence[Op], failure: Sequence[Op]) -> Op:
    return {"request_txn": {"compare": list(compare), "success": list(success), "failure": list(failure)}}


def version_is(key: str, version: int) -> Op:
    """0: there is no such key."""
    return {"key": encoded(key.encode()), "target": "VERSION", "result": "EQUAL", "version": str(version)}


def revision_is(key: str, revision: int) -> Op:
    """That of its last change. 0: there is no such key."""
    return {"key": encoded(key.encode()), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def lease_is(key: str, lease: int) -> Op:
    return {"key": encoded(key.encode()), "target": "LEASE", "result": "EQUAL", "lease": str(lease)}


class Etcd:
    """One server. Raises ApiError with the reason whenever it does not answer as it should."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, access: Access, login: Login) -> None:
        self._api = JsonApi(session, endpoint, access.timeout_s)
        self._login = login

    async def log_in(self) -> None:
        """If there is a user. Its token is good for some minutes, or for as long as a watch lasts."""
        if not self._login.user:
            return
        password = await secret_in(self._login.password_file)
        said = await self.ask("/v3/auth/authenticate", {"name": self._login.user, "password": password})
        self._api.headers = {"Authorization": str(said.get("token", ""))}

    async def ask(self, path: str, what: Mapping[str, Any]) -> Mapping[str, Any]:
        said = (await self._api.ask("POST", path, body=what)).content
        return self._checked(said)

    async def range(self, *prefixes: str) -> tuple[list[KeyValue], int]:
        """All keys with these prefixes, in their order, and the revision at which they were read."""
        done = await self.txn([], [range_op(prefix) for prefix in prefixes])
        return done.kvs, done.revision

    async def keys(self, prefix: str) -> list[str]:
        """The keys alone."""
        said = await self.ask("/v3/kv/range", {**prefix_range(prefix), "keys_only": True})
        return self._taken(said, lambda said: [KeyValue.of(one).key for one in said.get("kvs", [])])

    async def get(self, key: str) -> KeyValue | None:
        """That key alone; None when there is none."""
        found = (await self.txn([], [get_op(key)])).kvs
        return found[0] if found else None

    async def txn(self, compare: Sequence[Op], success: Sequence[Op], failure: Sequence[Op] = ()) -> Done:
        """All of `success` at once when every comparison holds, otherwise all of `failure`. When ApiError says that no
        answer came, nobody knows whether it was done."""
        body = {"compare": list(compare), "success": list(success), "failure": list(failure)}
        return self._taken(await self.ask("/v3/kv/txn", body), Done.of)

    async def put(self, key: str, value: bytes, lease: int = 0) -> None:
        await self.txn([], [put_op(key, value, lease)])

    async def delete(self, key: str) -> None:
        """Nothing is done when there is none."""
        await self.txn([], [delete_op(key)])

    async def grant(self, ttl_s: int) -> int:
        """A new lease: keys that have it are removed `ttl_s` after it was last kept alive. Its number."""
        return self._taken(await self.ask("/v3/lease/grant", {"TTL": str(ttl_s)}), lambda said: int(said["ID"]))

    async def keep_alive(self, lease: int) -> bool:
        """False when it is over already."""
        said = await self.ask("/v3/lease/keepalive", {"ID": str(lease)})
        return self._taken(said, lambda said: int(self._checked(said)["result"].get("TTL", 0))) > 0

    async def revoke(self, lease: int) -> None:
        """End it, and remove the keys that have it. ApiError also when it is over already."""
        await self.ask("/v3/lease/revoke", {"ID": str(lease)})

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
                yield self._taken(events, _changes)

    def _taken(self, said: Any, take: Callable[[Any], T]) -> T:
        """What `take` finds in an answer, whose form is not to be trusted."""
        try:
            return take(said)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise self._api.failed("not an answer of etcd") from None

    def _checked(self, said: Any) -> Mapping[str, Any]:
        error = said.get("error") if isinstance(said, dict) else "not an answer of etcd"
        if error or not isinstance(said, dict):
            raise self._api.failed(str(error.get("message", error) if isinstance(error, dict) else error))
        return said
