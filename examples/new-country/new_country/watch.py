"""What is done with a record: country, new or not, alert."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any

from new_country.geoip import GeoIP
from new_country.seen import Seen
from new_country.webhook import Alert, Webhook

logger = logging.getLogger("l4lb.new_country")  # below l4lb's own, so that its lines are in the same log


class Watch:
    """`saw` is called by one thread at a time; alerts are delivered by another."""

    def __init__(self, geoip: GeoIP, seen: Seen, url: str) -> None:
        self._geoip = geoip
        self._seen = seen
        self._webhook = Webhook(url, self._delivered) if url else None

    def saw(self, record: dict[str, Any]) -> None:
        """A client that was refused counts too: its record says so."""
        country = self._geoip.country(record["client"])
        if country and self._seen.is_new(record["listener"], country):
            self._report(Alert(record["listener"], country, record["client"], record["close_reason"], record["time"]))

    def _report(self, alert: Alert) -> None:
        logger.warning("session from a new country", extra={"fields": alert.as_fields()})
        if self._webhook is None:
            self._delivered(alert)
        else:
            self._webhook.send(alert)

    def _delivered(self, alert: Alert) -> None:
        """Only now it is remembered: what a restart comes between is reported again."""
        self._seen.remember(alert.listener, alert.country)


@functools.cache
def from_environment() -> Watch:
    """One for the process. ValueError, which l4lb shows as an error of `hooks.module`, says what is wrong."""
    url = os.environ.get("NEW_COUNTRY_URL", "")
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"NEW_COUNTRY_URL: expected http:// or https://, got {url!r}")
    return Watch(GeoIP(_path("NEW_COUNTRY_GEOIP")), Seen(_path("NEW_COUNTRY_SEEN")), url)


def _path(name: str) -> Path:
    if not (value := os.environ.get(name)):
        raise ValueError(f"{name} is not set: expected the path of a file")
    return Path(value)
