"""The ``kubernetes`` source: the endpoints of a Service, by its EndpointSlices. `l4lb.net.services.kubernetes_watch`
watches them, `l4lb.control.discovery.slices` says which endpoints serve.

A slice that is broken counts for itself alone: what it said before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace

from l4lb.config import DiscoveryConfig
from l4lb.control.discovery.slices import Endpoints, Port, endpoints_of, entries_of
from l4lb.control.discovery.sources import REMARKS_MAX, Answer, Asked, NoAnswer, Yielded, access_of
from l4lb.net.files import read_text
from l4lb.net.services import kubernetes
from l4lb.net.services.json_api import Access, ApiError
from l4lb.net.services.kubernetes import NOT_IN_A_CLUSTER, Slice, Slices, cluster_endpoint
from l4lb.net.services.kubernetes_watch import News, follow_slices


async def follow_kubernetes(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields after each change, and every few seconds while a server is there."""
    settings = asked.settings
    access, slices = await asyncio.to_thread(_asked, settings)
    known = _Slices(settings.port)
    async with contextlib.aclosing(follow_slices(access, slices)) as news:
        async for one in news:
            yield one if isinstance(one, ApiError) else known.answer(one)


def _asked(settings: DiscoveryConfig) -> tuple[Access, Slices]:
    """Without endpoints: as the pod that this process runs in. NoAnswer when it is in none."""
    access = access_of(settings)
    if access.endpoints:
        return access, Slices(settings.service, settings.namespace or "default", settings.token_file)
    endpoint, account = cluster_endpoint(), kubernetes.SERVICE_ACCOUNT
    if not endpoint:
        raise NoAnswer(f"{NOT_IN_A_CLUSTER}: expected endpoints, or to run in a cluster")
    namespace = settings.namespace or _own_namespace(f"{account}/namespace")
    access = replace(access, endpoints=(endpoint,), ca_file=access.ca_file or f"{account}/ca.crt")
    return access, Slices(settings.service, namespace, settings.token_file or f"{account}/token")


def _own_namespace(file: str) -> str:
    try:
        return read_text(file).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise NoAnswer(f"{file}: cannot be read: {reason}; expected namespace, or this file") from None


class _Slices:
    """By their names. `answer` is the same object until what they say changes."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._known: dict[str, Endpoints] = {}
        self._broken: dict[str, str] = {}
        self._answer: Answer | None = None

    def answer(self, news: News) -> Answer:
        if news.all is not None:
            for name in self._known.keys() - {one.name for one in news.all}:
                self._remove(name)
            for one in news.all:
                self._put(one)
        if news.changed is not None:
            self._put(news.changed)
        if news.gone is not None:
            self._remove(news.gone.name)
        if self._answer is None:
            said = {name: one.remark for name, one in self._known.items() if one.remark} | self._broken
            remarks = [f"slice {name}: {remark}" for name, remark in sorted(said.items())]
            self._answer = Answer(entries_of(self._known.values()), remark="; ".join(remarks[:REMARKS_MAX]))
        return self._answer

    def _put(self, one: Slice) -> None:
        before = (self._known.get(one.name), self._broken.pop(one.name, None))
        try:
            self._known[one.name] = endpoints_of(one.content, self._port)
        except ValueError as error:
            self._known.setdefault(one.name, Endpoints())
            self._broken[one.name] = str(error)
        if before != (self._known[one.name], self._broken.get(one.name)):
            self._answer = None

    def _remove(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self._broken.pop(name, None)
            self._answer = None
