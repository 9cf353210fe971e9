"""The dashboard: the page at ``/`` and its files, which are below ``dashboard/`` beside this module and are read once.
They contain no data, so they need no token; the page gets its data from the API like any client.

POLICY forbids the browser to load, send or run anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath

from aiohttp import web

from l4lb.version import __version__

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class File:
    """As it is served."""

    text: str
    media: str

    def response(self) -> web.Response:
        return web.Response(text=self.text, content_type=self.media, headers=_HEADERS)


def _read(folder: Traversable, path: str) -> dict[str, File]:
    """All that is served of `folder` and of the folders in it."""
    found: dict[str, File] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _read(entry, f"{path}/{entry.name}")
        elif (media := _MEDIA.get(PurePath(entry.name).suffix)) is not None:
            text = entry.read_text(encoding="utf-8").replace("{{version}}", __version__)
            found[f"{path}/{entry.name}"] = File(text, media)
    return found


FILES = _read(files(__package__).joinpath("dashboard"), "/dashboard")  # by path
PAGE = FILES.pop("/dashboard/index.html")


async def serve_file(request: web.Request) -> web.Response:
    return FILES[request.path].response()
