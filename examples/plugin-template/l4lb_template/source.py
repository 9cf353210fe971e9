"""``discovery = { type = "http_json", options = { url = "http://inventory/web" } }``: backends from a service that
answers with a list in JSON, ``["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}]``."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator
from typing import Any

from l4lb.discovery import Asked

BYTES_MAX = 1 << 20


def _get(url: str) -> list[Any]:
    """On a thread of its own: it blocks."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        said = json.loads(answer.read(BYTES_MAX))
    if not isinstance(said, list):
        raise ValueError("expected a list of backends")
    return said


async def follow_url(asked: Asked) -> AsyncGenerator[list[Any] | Exception, None]:
    """Looks at the option `url` every 10 seconds, or as often as the option `every` says."""
    options = asked.settings.options
    if not isinstance(options.get("url"), str):
        raise ValueError('options: expected url = "http://..."')
    while True:
        try:
            yield await asyncio.to_thread(_get, options["url"])
        except (OSError, ValueError) as error:  # what was known stays
            yield error
        await asyncio.sleep(float(options.get("every", 10)))
