"""The ``etcd`` source: one backend for each key below a prefix. All of them are read once, then watched from that
revision on; a lease that ends is a key that is removed.

A value is a backend as on a line of a file, ``10.0.0.1:80 weight=2``, or as a JSON object; without an address, the last
part of the key is one. One that is broken counts for itself alone: what the key said before stays.

Whatever breaks the watch, compaction too, has everything read again, at the next of the servers.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from itertools import count
from typing import Any

from l4lb.control.discovery.entries import backend_of, parse_entries
from l4lb.control.discovery.etcd_api import Etcd, range_of, session_for
from l4lb.control.discovery.sources import Answer, Asked, Entry, NoAnswer, Yielded

AGAIN_MIN_S = 0.5
AGAIN_MAX_S = 5.0
CONFIRM_S = 5.0  # a server that says nothing for so long is asked whether it is there
_REMARKS_MAX = 3


async def follow_etcd(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields after each change, and at least every CONFIRM_S while the server is there."""
    settings, keys, pause_s = asked.settings, _Keys(asked.settings.prefix), AGAIN_MIN_S
    async with session_for(settings) as session:
        for attempt in count():
            server = Etcd(session, settings.endpoints[attempt % len(settings.endpoints)], settings)
            try:
                await server.log_in()
                async with contextlib.aclosing(_follow(server, keys)) as answers:
                    async for answer in answers:
                        yield answer
                        pause_s = AGAIN_MIN_S
            except NoAnswer as error:
                yield error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_MAX_S)


async def _follow(server: Etcd, keys: _Keys) -> AsyncGenerator[Answer, None]:
    wanted = range_of(keys.prefix)
    said = await server.range(wanted)
    keys.replace(said.get("kvs", []))
    yield keys.answer()
    start = {**wanted, "start_revision": str(int(said["header"]["revision"]) + 1)}
    async with contextlib.aclosing(server.watch(start)) as results:
        waiting = asyncio.ensure_future(anext(results))
        try:
            while True:
                done, _ = await asyncio.wait([waiting], timeout=CONFIRM_S)
                if not done:
                    await server.range({**wanted, "count_only": True})
                    yield keys.answer()
                    continue
                result = waiting.result()
                if result.get("canceled"):
                    raise NoAnswer(f"the watch was ended: {result.get('cancel_reason') or 'its start was compacted'}")
                waiting = asyncio.ensure_future(anext(results))
                if events := result.get("events"):
                    keys.change(events)
                    yield keys.answer()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


class _Keys:
    """What is below the prefix, by key. `answer` is the same object until that changes."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._entries: dict[str, tuple[str, Entry]] = {}  # with their addresses
        self._said: dict[str, bytes] = {}
        self._broken: dict[str, str] = {}
        self._answer: Answer | None = None

    def replace(self, kvs: list[Mapping[str, str]]) -> None:
        """These are all."""
        found = {_key(kv): _value(kv) for kv in kvs}
        for key in self._said.keys() - found.keys():
            self._remove(key)
        for key, value in found.items():
            self._put(key, value)

    def change(self, events: list[Mapping[str, Any]]) -> None:
        for event in events:
            if event.get("type") == "DELETE":
                self._remove(_key(event["kv"]))
            else:
                self._put(_key(event["kv"]), _value(event["kv"]))

    def _put(self, key: str, value: bytes) -> None:
        if self._said.get(key) == value:
            return
        self._said[key], self._answer = value, None
        try:
            entry = _entry(key, value)
            self._entries[key] = (backend_of(entry, "the value").address, entry)
            self._broken.pop(key, None)
        except ValueError as error:
            self._broken[key] = str(error)

    def _remove(self, key: str) -> None:
        self._answer = None
        for some in (self._entries, self._said, self._broken):
            some.pop(key, None)

    def answer(self) -> Answer:
        """In the order of the keys. Of several for one address the first counts."""
        if self._answer is None:
            by_address: dict[str, Entry] = {}
            for _, (address, entry) in sorted(self._entries.items()):
                by_address.setdefault(address, entry)
            remarks = [f"key {key}: {reason}" for key, reason in sorted(self._broken.items())]
            self._answer = Answer(list(by_address.values()), remark="; ".join(remarks[:_REMARKS_MAX]))
        return self._answer


def _key(kv: Mapping[str, str]) -> str:
    return base64.b64decode(kv["key"]).decode(errors="replace")


def _value(kv: Mapping[str, str]) -> bytes:
    return base64.b64decode(kv.get("value", ""))


def _entry(key: str, value: bytes) -> Entry:
    """ValueError for a value that is none."""
    text = value.decode().strip()
    named = key.rpartition("/")[2]
    if not text:
        return named
    if text.startswith("{"):
        said = json.loads(text)
        return {"address": named, **said}
    entries = parse_entries(text, "lines").entries
    if len(entries) != 1:
        raise ValueError("expected one backend")
    return entries[0]
