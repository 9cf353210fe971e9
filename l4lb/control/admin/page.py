"""The status page: one file beside this one, no external resource; it asks /v1/status every second."""

from __future__ import annotations

from importlib.resources import files

PAGE = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
