"""The ``etcd`` source: one backend for each key below a prefix. All of them are read once, then watched from that
revision on; a lease that ends is a key that is removed.

A value is a backend as on a line of a file, ``10.0.0.1:80 weight=2``, or as a JSON object; without an address, the last
part of the key is one. One that is broken counts for itself alone: what the key said before stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence

from l4lb.control.discovery.entries import backend_of, parse_entries
from l4lb.control.discovery.sources import REMARKS_MAX, Answer, Asked, Entry, Yielded, access_of
from l4lb.net.services.etcd import Change, KeyValue, Login
from l4lb.net.services.etcd_watch import follow_prefix
from l4lb.net.services.json_api import ApiError


async def follow_etcd(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields after each change, and every few seconds while a server is there."""
    settings, keys = asked.settings, _Keys()
    login = Login(settings.user, settings.password_file)
    async with contextlib.aclosing(follow_prefix(access_of(settings), login, settings.prefix)) as news:
        async for one in news:
            if isinstance(one, ApiError):
                yield one
                continue
            if one.all is not None:
                keys.replace(one.all)
            keys.change(one.changes)
            yield keys.answer()


class _Keys:
    """What is below the prefix, by key. `answer` is the same object until that changes."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, Entry]] = {}  # with their addresses
        self._said: dict[str, bytes] = {}
        self._broken: dict[str, str] = {}
        self._answer: Answer | None = None

    def replace(self, kvs: Sequence[KeyValue]) -> None:
        """These are all."""
        for key in self._said.keys() - {kv.key for kv in kvs}:
            self._remove(key)
        for kv in kvs:
            self._put(kv.key, kv.value)

    def change(self, changes: Sequence[Change]) -> None:
        for one in changes:
            if one.gone:
                self._remove(one.kv.key)
            else:
                self._put(one.kv.key, one.kv.value)

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
            self._answer = Answer(list(by_address.values()), remark="; ".join(remarks[:REMARKS_MAX]))
        return self._answer


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
