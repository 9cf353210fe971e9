"""A session's line in the access log, as text or JSON. Made for tens of thousands per second: caches repeated texts.

The time is that of the session's end. Ids are text in JSON too, since they need all 64 bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from l4lb.model.hooks import Tags
from l4lb.model.logfmt import quoted
from l4lb.model.stats import SessionRecord

_KEPT_MAX = 4096


class Texts:
    """Caches `make(key)` for a while."""

    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make
        self._kept: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        text = self._kept.get(key)
        if text is None:
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            text = self._kept[key] = self._make(key)
        return text


class _Clock:
    """``2026-01-02T03:04:05.678Z`` for seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""
        self._offset_s = 0.0

    def adjust(self) -> None:
        """Follow changes of the system's time."""
        self._offset_s = time.time() - time.monotonic()

    def __call__(self, monotonic_s: float) -> str:
        second, ms = divmod(int((monotonic_s + self._offset_s) * 1000), 1000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{ms:03d}Z"


def _text_value(text: str) -> str:
    return quoted(text) if text else "-"


def _json_value(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text_tags(tags: Tags) -> str:
    return "".join(f" tags.{key}={quoted(value)}" for key, value in tags.items())


def _json_tags(tags: Tags) -> str:
    return f',"tags":{json.dumps(dict(tags), ensure_ascii=False, separators=(",", ":"))}'


class Formatter:
    """Used by one thread."""

    def __init__(self, log_format: str) -> None:
        self.log_format = log_format
        self._line = self._json if log_format == "json" else self._text
        self._value = Texts(_json_value if log_format == "json" else _text_value)
        self._clock = _Clock()

    def lines(self, records: Sequence[SessionRecord]) -> list[str]:
        self._clock.adjust()
        return [self._line(record) for record in records]

    def _text(self, r: SessionRecord) -> str:
        value = self._value
        connect = f"{r.connect_s * 1000:.3f}" if r.connect_s else "-"
        return (
            f"time={self._clock(r.started_s + r.duration_s)} listener={value(r.listener)} pool={value(r.pool)}"
            f" backend={value(r.backend)} client={r.client} client_port={r.client_port} local={value(r.local)}"
            f" session_id={r.session_id} bytes_up={r.bytes_up} bytes_down={r.bytes_down} connect_ms={connect}"
            f" duration_ms={r.duration_s * 1000:.3f} attempts={r.attempts} close_reason={r.close_reason.value}"
            f" spliced={'true' if r.spliced else 'false'} sni={value(r.sni)}{_text_tags(r.tags) if r.tags else ''}"
        )

    def _json(self, r: SessionRecord) -> str:
        value = self._value
        connect = f"{r.connect_s * 1000:.3f}" if r.connect_s else "null"
        return (
            f'{{"time":"{self._clock(r.started_s + r.duration_s)}","listener":{value(r.listener)}'
            f',"pool":{value(r.pool)},"backend":{value(r.backend)},"client":"{r.client}"'
            f',"client_port":{r.client_port},"local":{value(r.local)},"session_id":"{r.session_id}"'
            f',"bytes_up":{r.bytes_up},"bytes_down":{r.bytes_down},"connect_ms":{connect}'
            f',"duration_ms":{r.duration_s * 1000:.3f},"attempts":{r.attempts}'
            f',"close_reason":"{r.close_reason.value}","spliced":{"true" if r.spliced else "false"}'
            f',"sni":{value(r.sni)}{_json_tags(r.tags) if r.tags else ""}}}'
        )
