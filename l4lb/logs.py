"""Format and target of the log: one line per record, text or JSON, to stderr, a file or syslog. Only the CLI sets it
up; a program that embeds l4lb configures the standard logger ``l4lb`` as it likes."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

from l4lb.config import GlobalConfig
from l4lb.model.logfmt import quoted
from l4lb.net.output.line_writer import LineWriter, Losing
from l4lb.net.output.log_targets import open_sink
from l4lb.net.output.sinks import Sink

logger = logging.getLogger("l4lb")
_AGAIN_S = 0.25


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z info backend down pool=web backend=10.0.0.1:80 reason="..."``"""

    def format(self, record: logging.LogRecord) -> str:
        pairs = [f"{key}={quoted(value)}" for key, value in _fields(record).items()]
        parts = [_time(record), record.levelname.lower().ljust(7), record.getMessage(), *pairs]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, message and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, **_fields(record)}, default=str)


class LineHandler(logging.Handler):
    """Writes to `sink` without ever waiting for it, from any thread. A bounded number of lines that the sink does not
    take are kept, and tried again with the next line and after a moment."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.writer = LineWriter(sink, self._losing)
        self._lost = 0  # reported when lines are written again
        self._again: threading.Timer | None = None

    def _losing(self, losing: Losing) -> None:
        if not losing.reason:
            self._lost = losing.dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.add([self.format(record)], record.levelno)
            self._flush()
        except Exception:
            self.handleError(record)

    def _flush(self) -> None:
        """The caller holds the handler's lock."""
        if self.writer.flush() and self._lost:
            lost, self._lost = self._lost, 0
            fields = {"to": self.writer.sink.name, "dropped": lost}
            recovered = logging.makeLogRecord(
                {"levelno": logging.WARNING, "levelname": "WARNING", "msg": "log recovered"}
            )
            recovered.fields = fields
            self.writer.add([self.format(recovered)], logging.WARNING)
            self.writer.flush()
        if (self.writer.pending or self.writer.losing) and self._again is None:
            self._again = threading.Timer(_AGAIN_S, self._try_again)
            self._again.daemon = True
            self._again.start()

    def _try_again(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._again = None
            self._flush()

    def reopen(self) -> None:
        """On OSError it keeps the file that it has."""
        with self.lock or contextlib.nullcontext():
            self.writer.sink.reopen()

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            if self._again is not None:
                self._again.cancel()
                self._again = None
            self.writer.close()
        super().close()


def set_up(settings: GlobalConfig) -> None:
    """Send the logger ``l4lb`` where `settings` say. On OSError or ValueError nothing has changed."""
    handler = LineHandler(open_sink(settings.log, settings.syslog, settings.syslog_facility, "log"))
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    before, logger.handlers = logger.handlers, [handler]
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    for one in before:
        one.close()


def reopen() -> None:
    """Open the log's file again: it may have been renamed."""
    for handler in logger.handlers:
        if isinstance(handler, LineHandler):
            try:
                handler.reopen()
            except OSError as error:
                fields = {"to": handler.writer.sink.name, "reason": error.strerror}
                logger.error("log not reopened", extra={"fields": fields})
