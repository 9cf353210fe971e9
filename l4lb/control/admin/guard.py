"""Who may send requests: bearer tokens, and protection from other pages in a browser; and who it was that changed
something. Control loop only.

A page of another origin must not be able to use the API: neither through its own name that resolves to this address
(DNS rebinding: the Host header has that name), nor with requests that need no answer (their Origin header differs from
Host). A unix socket is guarded by its file's mode, but a browser reaches it too when its user forwards a port to it
(`ssh -L`). Clients then use any name of one label for it, which no foreign page can have.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import pwd
import socket
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from urllib.parse import urlsplit

from aiohttp import web

from l4lb.control.admin.errors import Handler, Refusal
from l4lb.control.state.actor import acting
from l4lb.model.tokens import Token
from l4lb.net.listen.admin_socket import peer_of

_READING = ("GET", "HEAD")
_USER_WITHIN_S = 1.0
_token: ContextVar[Token | None] = ContextVar("l4lb token", default=None)  # of the request that is served


def require_token(tokens: Sequence[Token], public: Collection[str]) -> object:
    """Middleware that requires one of `tokens`, except on the paths `public`. A token for reading changes nothing."""

    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        found = _found(tokens, given.strip()) if scheme.lower() == "bearer" else None
        if found is not None and found.read_only and request.method not in _READING:
            raise Refusal(403, f'the token "{found.name}" is for reading alone')
        if request.path in public or found is not None:
            _token.set(found)
            return await handler(request)
        raise Refusal(401, "the token is missing or wrong (header Authorization: Bearer TOKEN)")

    return authorize


def _found(tokens: Sequence[Token], given: str) -> Token | None:
    """Compares with all of them, each in constant time."""
    raw = given.encode("utf-8", "surrogateescape")
    same = [one for one in tokens if hmac.compare_digest(raw, one.secret.encode())]
    return same[0] if same else None


# ---- who asks, for the events of changes ----


@web.middleware
async def note_who(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method in _READING:
        return await handler(request)
    with acting(await who(request)):
        return await handler(request)


async def who(request: web.Request) -> str:
    """Who sent `request`, as events name it: the token and the place, as far as they are known."""
    token = _token.get()
    place, name = await _place(request.transport), token.name if token is not None else ""
    return f"{name} at {place}" if name and place else name or place


def reads_only() -> bool:
    """Whether who sent the request that is served may change nothing."""
    token = _token.get()
    return token is not None and token.read_only


async def _place(transport: asyncio.BaseTransport | None) -> str:
    """The user and process at the other end of a unix socket, or the address at that of TCP; empty when it is gone."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return ""
    if sock.family != socket.AF_UNIX:
        peer = transport.get_extra_info("peername") if transport is not None else None
        return str(peer[0]) if peer else ""
    try:
        pid, uid = peer_of(sock.fileno())
    except OSError:  # gone meanwhile
        return ""
    user = await _user_within(_USER_WITHIN_S, uid)
    return f"{user} (pid {pid})" if pid else user


async def _user_within(within_s: float, uid: int) -> str:
    """The number of one whose name is not known in time: no change waits for a directory in the network."""
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.to_thread(_user, uid)
    except (TimeoutError, RuntimeError):  # RuntimeError: no thread can be started
        return _number(uid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return _number(uid)


def _number(uid: int) -> str:
    return f"uid {uid}"


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
