"""Who may send requests: the bearer token, and protection from other pages in a browser. Control loop only.

A page of another origin must not be able to use the API: neither through its own name that resolves to this address
(DNS rebinding: the Host header has that name), nor with requests that need no answer (their Origin header differs from
Host). A unix socket is guarded by its file's mode, but a browser reaches it too when its user forwards a port to it
(`ssh -L`). Clients then use any name of one label for it, which no foreign page can have.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web

from l4lb.control.admin.errors import Handler, Refusal

_READING = ("GET", "HEAD")


def require_token(token: str, public: Collection[str]) -> object:
    """Middleware that requires `token`, compared in constant time, except on the paths `public`."""
    expected = token.encode()

    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
        if request.path in public or (same and scheme.lower() == "bearer"):
            return await handler(request)
        raise Refusal(401, "expected the header Authorization: Bearer TOKEN")

    return authorize


def _host_name(authority: str) -> str:
    """The host without the port; empty for an invalid authority."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_local(host: str, known: Collection[str], one_label: bool) -> bool:
    """Whether nobody else can make this name resolve to this address: an IP address, localhost, the bound name."""
    name = _host_name(host)
    if name in ("localhost", *known) or (one_label and "." not in name):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refuse_other_pages(names: Collection[str], one_label: bool = False) -> object:
    """Middleware for an API without a token. Accepts IP addresses and `names` as hosts, with `one_label` also every
    name without a dot."""

    @web.middleware
    async def same_page(request: web.Request, handler: Handler) -> web.StreamResponse:
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if host is not None and not _is_local(host, names, one_label):
            raise Refusal(401, f'"{host}": not a name of this API; ask it by its IP address', "Host")
        if request.method not in _READING and origin is not None and _authority(origin) != host:
            raise Refusal(401, f'"{origin}": a page of another origin may change nothing here', "Origin")
        return await handler(request)

    return same_page


def _authority(origin: str) -> str:
    """``host:port`` of an Origin header; empty for ``null`` and for an invalid one."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
