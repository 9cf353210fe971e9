"""What hooks have attached to sessions, by their ids: for the access log, hooks and lists of sessions. Any thread.

Workers only know whether a session has tags. What is kept is bounded, and forgotten with the session's record; of
sessions whose record nobody reads, see `l4lb.control.sessions.tagging`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping

from l4lb.model.forwarder import SessionRecords
from l4lb.model.hooks import NO_TAGS, Tags
from l4lb.model.stats import SessionRecord

COUNT_MAX = 16  # of one session
KEY_MAX = 64
VALUE_MAX = 256
KEPT_MAX_CHARS = 64 * 1024 * 1024  # of all sessions, with what they cost besides
_ENTRY_CHARS = 256
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def checked(tags: object) -> Tags:
    """A copy. ValueError for what cannot be a session's tags."""
    if not isinstance(tags, Mapping):
        raise ValueError(f"tags: expected a dict of str by str, not {tags!r:.80}")
    if len(tags) > COUNT_MAX:
        raise ValueError(f"{len(tags)} tags, at most {COUNT_MAX}")
    return {_key(key): _value(key, value) for key, value in tags.items()}


def _key(key: object) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"tag {key!r:.80}: expected a name of letters, digits and _")
    if len(key) > KEY_MAX:
        raise ValueError(f"tag {key!r:.80}: its name has {len(key)} characters, at most {KEY_MAX}")
    return key


def _value(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f'tag "{key}": expected a str, not {value!r:.80}')
    if len(value) > VALUE_MAX:
        raise ValueError(f'tag "{key}": {len(value)} characters, at most {VALUE_MAX}')
    return value


def _chars(tags: Tags) -> int:
    return _ENTRY_CHARS + sum(len(key) + len(value) for key, value in tags.items())


class SessionTags:
    """`keep` before the session is answered, `take` with its record."""

    def __init__(self) -> None:
        self._kept: dict[int, Tags] = {}
        self._later: set[int] = set()  # what came since `all`
        self._chars = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, session_id: int, tags: Tags) -> bool:
        """False: there is no room for more."""
        with self._lock:
            self._forget(session_id)
            chars = _chars(tags)
            if self._chars + chars > KEPT_MAX_CHARS:
                return False
            self._kept[session_id] = tags
            self._later.add(session_id)
            self._chars += chars
            return True

    def _forget(self, session_id: int) -> Tags:
        tags = self._kept.pop(session_id, None)
        if tags is None:
            return NO_TAGS
        self._later.discard(session_id)
        self._chars -= _chars(tags)
        return tags

    def of(self, session_id: int) -> Tags:
        return self._kept.get(session_id, NO_TAGS)

    def take(self, session_id: int) -> Tags:
        """For the last time."""
        with self._lock:
            return self._forget(session_id)

    def known(self) -> set[int]:
        with self._lock:
            return set(self._kept)

    def forget(self, session_ids: Collection[int]) -> None:
        with self._lock:
            for session_id in session_ids:
                self._forget(session_id)

    def all(self) -> dict[int, Tags]:
        """To hand on, ahead of the sessions."""
        with self._lock:
            self._later.clear()
            return dict(self._kept)

    def later(self) -> dict[int, Tags]:
        """What has come since `all`."""
        with self._lock:
            return {session_id: self._kept[session_id] for session_id in self._later}


class TaggedRecords:
    """A forwarder's records, with the tags of their sessions."""

    def __init__(self, records: SessionRecords, tags: SessionTags) -> None:
        self._records = records
        self._tags = tags
        self.keep_records = records.keep_records
        self.stop_records = records.stop_records
        self.records_dropped = records.records_dropped

    def take_records(self, limit: int) -> list[SessionRecord]:
        taken = self._records.take_records(limit)
        return [self._with_tags(one) for one in taken] if self._tags else taken

    def _with_tags(self, record: SessionRecord) -> SessionRecord:
        tags = self._tags.take(record.session_id)
        return record._replace(tags=tags) if record.tagged else record
