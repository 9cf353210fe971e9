"""Alerts to a URL by POST, as JSON, on a thread of its own: one after the other, again and again until it is taken."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException

TIMEOUT_S = 10.0
AGAIN_AFTER_S = 1.0

logger = logging.getLogger("l4lb.new_country")


@dataclass(frozen=True)
class Alert:
    listener: str
    country: str
    client: str
    close_reason: str
    time: str

    def as_fields(self) -> dict[str, str]:
        return asdict(self)

    def as_json(self) -> bytes:
        """`text` is what Slack, Mattermost and others show."""
        text = f"first session from {self.country} at listener {self.listener}: {self.client}"
        return json.dumps({"text": text, **asdict(self)}).encode()


class Webhook:
    """`delivered` is called on its thread. The queue has no bound and needs none: there are 250 countries."""

    def __init__(self, url: str, delivered: Callable[[Alert], None]) -> None:
        self._url = url
        self._delivered = delivered
        self._alerts: queue.SimpleQueue[Alert] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_down = False

    def send(self, alert: Alert) -> None:
        """Called by one thread at a time. The first one starts the thread: when this is made, l4lb may still be root,
        and a thread would stay so."""
        self._alerts.put(alert)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="new-country", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            alert = self._alerts.get()
            while not self._post(alert):
                time.sleep(AGAIN_AFTER_S)
            self._delivered(alert)

    def _post(self, alert: Alert) -> bool:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, alert.as_json(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                pass
        except (OSError, HTTPException, ValueError) as error:
            self._failed(error)
            return False
        if self._is_down:
            logger.info("alerts are delivered again")
        self._is_down = False
        return True

    def _failed(self, error: Exception) -> None:
        if not self._is_down:
            fields = {"reason": str(error)}
            logger.warning("alerts cannot be delivered, they wait", extra={"fields": fields})
        self._is_down = True
