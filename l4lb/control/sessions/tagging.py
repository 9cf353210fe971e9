"""Forgets tags of sessions that are gone, where no record took them: nobody reads records, or a ring was full, or an
answer came too late. Control loop only.

Workers are asked which sessions have tags once there are twice as many tags as last time. What is not among them is
asked about once more before it is forgotten: its answer may have been on its way.
"""

from __future__ import annotations

import asyncio

from l4lb.control.sessions.sessions import Sessions
from l4lb.control.state.tags import SessionTags
from l4lb.errors import ChangeError
from l4lb.net.output.record_stream import RecordStream

KEPT_UNASKED = 1024
_MORE = 10_000  # sessions whose tags came since
_READ_WITHIN_S = 5.0


class Tagging:
    """`records` takes tags with the records that it reads."""

    def __init__(self, tags: SessionTags, sessions: Sessions, records: RecordStream) -> None:
        self._tags = tags
        self._sessions = sessions
        self._records = records
        self._ask_above = KEPT_UNASKED
        self._suspects: set[int] | None = None  # they were not there when asked first
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Called about once a second."""
        due = self._suspects is not None or len(self._tags) > self._ask_above
        if due and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._look())

    def look_soon(self) -> None:
        """Those that came from another process may have no session."""
        if self._tags:
            self._ask_above = 0

    async def _look(self) -> None:
        known = self._tags.known()
        try:
            here = await self._sessions.tagged(len(known) + _MORE)
        except ChangeError:  # this process is about to end
            return
        gone = known - here if here is not None else set()
        if self._suspects is None:
            self._suspects = gone
            return
        await self._forget(gone & self._suspects)
        self._suspects = None
        self._ask_above = max(KEPT_UNASKED, 2 * len(self._tags))

    async def _forget(self, gone: set[int]) -> None:
        """Once records that wait have been read: they take their tags."""
        if gone:
            read = self._records.between(self._records.empty)
            await asyncio.to_thread(read.wait, _READ_WITHIN_S)
            self._tags.forget(gone)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
