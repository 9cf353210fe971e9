"""How the log looks: one line a record, text or JSON, to stderr. Set up by the CLI alone; a program that embeds l4lb
configures the standard logger ``l4lb`` as it likes."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return text if text and plain else json.dumps(text, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z info backend down pool=web backend=10.0.0.1:80 reason="..."``"""

    def format(self, record: logging.LogRecord) -> str:
        pairs = [f"{key}={_text(value)}" for key, value in _fields(record).items()]
        parts = [_time(record), record.levelname.lower().ljust(7), record.getMessage(), *pairs]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, **_fields(record)}, default=str)


def set_up(level: str, log_format: str) -> None:
    """Send the logger ``l4lb`` to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logger = logging.getLogger("l4lb")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
