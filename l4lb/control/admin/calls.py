"""What the handlers of the admin API are given and return, and what they work on. Control loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from l4lb.config import Config
from l4lb.control.admin.stream import EventStream
from l4lb.control.process.status import Status
from l4lb.control.reporting import shapes
from l4lb.control.reporting.exposition import Metrics
from l4lb.control.sessions.banning import Banning
from l4lb.control.sessions.draining import Draining
from l4lb.control.sessions.sessions import Sessions
from l4lb.model.changes import Changes

T = TypeVar("T")


class Origin(Protocol):
    """Where the configuration is from."""

    async def read(self) -> Config: ...


class Verbs(Protocol):
    """The actions of the API; `l4lb.control.plane.ControlPlane` implements them."""

    @property
    def sessions(self) -> Sessions: ...
    @property
    def draining(self) -> Draining: ...
    @property
    def banning(self) -> Banning: ...
    @property
    def fleet(self) -> Origin: ...
    async def reload(self) -> Changes: ...
    async def upgrade(self) -> int: ...
    async def put_backend(
        self, pool: str, backend: str, settings: Mapping[str, Any]
    ) -> tuple[shapes.Backend, bool]: ...
    async def remove_backend(self, pool: str, backend: str, drain_s: float | None = None) -> shapes.Removed: ...


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers work on. `reading` is held by the one that reads the configuration's file."""

    status: Status
    verbs: Verbs
    stream: EventStream
    document: Callable[[], dict[str, Any]]
    metrics: Metrics
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Query(BaseModel):
    """Parameters after the question mark; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `path` by the names in the route's path, `query` and `body` as the route's models."""

    path: Mapping[str, str]
    query: Any
    body: Any
    request: web.Request


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a handler returns when the status is not always 200; it is one of the route's `statuses`."""

    body: T
    status: int
