"""Who may ask: the bearer token, and, where a browser could be made to ask, no page but our own. Control loop only.

A page of another origin must not be able to use the API: not with a name of its own that resolves to this address (DNS
rebinding: its Host header is that name), and not by requests that need no answer (their Origin header is another than
Host). A unix socket is guarded by its file's mode, but a browser reaches it too when its user forwards a port to it
(`ssh -L`). There clients make up a name for it: any of one label, which no stranger's page can have.
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
    """Middleware that asks for `token`, compared in constant time, except on the paths `public`."""
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
    """Without the port; empty for what is no authority."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_local(host: str, known: Collection[str], one_label: bool) -> bool:
    """A name that no stranger can make resolve to this address: an IP address, localhost, the one that is bound."""
    name = _host_name(host)
    if name in ("localhost", *known) or (one_label and "." not in name):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refuse_other_pages(names: Collection[str], one_label: bool = False) -> object:
    """Middleware for an API without a token. `names` are those that it may be asked under, besides IP addresses, and
    with `one_label` all that have no dot."""

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
    """``host:port`` of an Origin header; empty for ``null`` and for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
