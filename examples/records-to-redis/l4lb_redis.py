"""``access_log = "plugin:redis_stream"``: each session's record as an entry of a Redis stream.

l4lb calls `write` with up to 1,000 records, on a thread of the sink's own. A batch is added in one transaction: all of
it or nothing. What raises here is a batch that is lost, which l4lb counts and reports.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 5.0  # of a connect, and of an answer
AGAIN_AFTER_S = 0.2

logger = logging.getLogger("l4lb.redis_stream")  # below l4lb's own, so that its lines are in the same log


@dataclass(frozen=True)
class Options:
    """`[global.access_log_options]`."""

    url: str = "redis://127.0.0.1:6379/0"
    username: str = ""
    password: str = ""
    stream: str = "l4lb:sessions"
    max_length: int = 1_000_000  # entries that the stream keeps, and some more
    retry_seconds: float = 10.0  # how long a batch waits for a Redis that is away


class RedisStream:
    """Connects when there is something to write, and again after an error."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._is_away = False
        self._client = redis.Redis.from_url(
            options.url,
            username=options.username or None,
            password=options.password or None,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # `write` tries again itself, for as long as the options say
        )

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """While Redis is away, records wait here and in l4lb's queue. An error when it is for longer than the options
        say, or does not take them."""
        deadline = time.monotonic() + self._options.retry_seconds
        while True:
            try:
                self._add(records)
                self._back()
                return
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self._away(error)
                if time.monotonic() >= deadline:
                    raise
            time.sleep(AGAIN_AFTER_S)

    def close(self) -> None:
        self._client.close()

    def _add(self, records: Sequence[dict[str, Any]]) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            for record in records:
                pipe.xadd(self._options.stream, entry(record), maxlen=self._options.max_length, approximate=True)
            pipe.execute()

    def _away(self, error: Exception) -> None:
        if not self._is_away:
            shown = {"stream": self._options.stream, "reason": str(error)}
            logger.warning("redis is away, records wait for it", extra={"fields": shown})
        self._is_away = True

    def _back(self) -> None:
        if self._is_away:
            logger.info("redis is back", extra={"fields": {"stream": self._options.stream}})
        self._is_away = False


def entry(record: dict[str, Any]) -> dict[Any, Any]:
    """Redis knows text only: numbers and truth values are as in JSON, and what has no value is left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in record.items()
        if value is not None
    }


def open_sink(options: dict[str, Any]) -> RedisStream:
    """ValueError says what is wrong with the options; l4lb shows it as an error of the configuration."""
    return RedisStream(checked(options))


def checked(options: dict[str, Any]) -> Options:
    defaults = {field.name: field.default for field in fields(Options)}
    if unknown := options.keys() - defaults.keys():
        raise ValueError(f'unknown option "{min(unknown)}": expected {", ".join(defaults)}')
    for name, value in options.items():
        _expect_kind(name, value, defaults[name])
    found = Options(**options)
    if not found.stream:
        raise ValueError("stream: expected the name of a stream")
    if not found.max_length:
        raise ValueError("max_length: expected at least 1")
    if has_password(found.url):
        raise ValueError("url: expected no password in it; l4lb shows the url, but not the option password")
    return found


def _expect_kind(name: str, value: object, default: object) -> None:
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{name}: expected text, got {value!r}")
        return
    kinds = (int,) if isinstance(default, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
        raise ValueError(f"{name}: expected a number such as {default}, got {value!r}")


def has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password" in parse_qs(parts.query)
