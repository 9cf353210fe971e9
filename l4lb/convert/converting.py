"""A text of HAProxy or nginx as an lb.toml, and what was not converted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.settling import settle
from l4lb.convert.haproxy.converting import convert_haproxy
from l4lb.convert.haproxy.keywords import SECTIONS
from l4lb.convert.nginx.converting import convert_nginx
from l4lb.errors import ConfigError, Problem

Format = Literal["haproxy", "nginx"]
_NGINX = re.compile(
    r"^[ \t]*(?:(?:stream|http|events|upstream|server|mail|map)\b[^;#\n]*\{|[a-z_]+[ \t][^;{}#\n]*;[ \t]*(?:#|$))", re.M
)
_HAPROXY = re.compile(rf"^[ \t]*(?:{'|'.join(SECTIONS)})\b[^;{{}}\n]*$", re.M)


class Conversion(NamedTuple):
    """`text` is empty when nothing of the source is for l4lb."""

    text: str
    lost: list[Problem]
    listeners: int
    pools: int


def convert(text: str, file: str, kind: Format, environment: Mapping[str, str]) -> Conversion:
    """`environment` has the variables that a haproxy.cfg may use; files that a configuration includes are read relative
    to `file`. ConfigError, with the line, for what is not understood at all."""
    if "\0" in text:
        raise ConfigError([Problem("", "a NUL: not a text", file, text[: text.index("\0")].count("\n") + 1)])
    report = Report()
    if kind == "haproxy":
        draft = convert_haproxy(text, file, environment, report)
    else:
        draft = convert_nginx(text, file, report)
    result = settle(draft, report)
    return Conversion(result, report.problems, len(draft.listeners), len(draft.pools))


def format_of(text: str, file: str) -> Format:
    """By the content. ConfigError when it is neither."""
    haproxy, nginx = len(_HAPROXY.findall(text)), len(_NGINX.findall(text))
    if haproxy == nginx:
        message = "neither a haproxy.cfg nor an nginx.conf, by what is in it; --from says which one it is"
        raise ConfigError([Problem("", message, file)])
    return "haproxy" if haproxy > nginx else "nginx"
