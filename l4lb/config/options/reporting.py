"""Where this process reports to: the types of those options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from l4lb.net.address import parse_address


def _place(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words and not os.path.isabs(text):
            named = ", ".join(f'"{word}"' for word in words)
            raise ValueError(f"expected {named} or an absolute path")
        if "\0" in text:
            raise ValueError("has a control character (U+0000)")
        return text

    return check


def _datagram_address(text: str) -> str:
    """``host:port`` or ``unix:/path``; not for listening, so that neither may be left out."""
    address = parse_address(text)
    if address.kind == "fd" or address.is_range or (address.kind == "ip" and not (address.host and address.ports[0])):
        raise ValueError('expected "host:port" or "unix:/path"')
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        raise ValueError('expected letters, digits, "_", "-" and "."')
    return text


LogTarget = Annotated[str, AfterValidator(_place("stderr", "syslog"))]
AccessLogTarget = Annotated[str, AfterValidator(_place("off", "stdout", "syslog"))]
MetricPrefix = Annotated[str, AfterValidator(_prefix)]
DatagramAddress = Annotated[str, AfterValidator(_datagram_address)]
DatagramAddressOrOff = Annotated[str, AfterValidator(lambda text: text if text == "off" else _datagram_address(text))]
