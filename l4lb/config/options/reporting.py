"""Where this process reports to: the types of those options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from l4lb import plugins
from l4lb.model.hints import did_you_mean
from l4lb.net.address import parse_address

PLUGIN = "plugin:"


def _place(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words and not os.path.isabs(text):
            named = ", ".join(f'"{word}"' for word in words)
            raise ValueError(f"expected {named} or an absolute path")
        if "\0" in text:
            raise ValueError("has a control character (U+0000)")
        return text

    return check


def _access_log(text: str) -> str:
    name = record_sink_of(text)
    if name is None:
        return _place("off", "stdout", "syslog")(text)
    known = list(plugins.names(plugins.RECORD_SINKS))
    if name not in known:
        installed = ", ".join(known) or "none"
        raise ValueError(f"no such record sink{did_you_mean(name, known)}; installed: {installed}")
    return text


def record_sink_of(access_log: str) -> str | None:
    """The name in ``plugin:NAME``; None for another target."""
    return access_log.removeprefix(PLUGIN) if access_log.startswith(PLUGIN) else None


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
AccessLogTarget = Annotated[str, AfterValidator(_access_log)]
MetricPrefix = Annotated[str, AfterValidator(_prefix)]
DatagramAddress = Annotated[str, AfterValidator(_datagram_address)]
DatagramAddressOrOff = Annotated[str, AfterValidator(lambda text: text if text == "off" else _datagram_address(text))]
