"""Which page of the site shows a file of the repository. Pages are those of docs/, under their own names; what else
they link to (the README, examples, units, measured figures) is shown by pages below source/, so that every link leads
somewhere, also without a network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"
SOURCE = "source/"
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""(\]\(|(?:src|srcset)=")([^)"\s]+)""")
_PICTURES = (".png", ".svg")


def page_of(path: str) -> str:
    """The page, or the picture, for a path from the repository's root on; docs/ has its pages in docs/ itself."""
    if path == "README.md":
        return "index.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return SOURCE + path if path.endswith((".md", *_PICTURES)) else f"{SOURCE}{path}.md"


def is_picture(path: str) -> bool:
    return path.endswith(_PICTURES)


def target_of(path: str, link: str) -> tuple[str, str] | None:
    """What a relative link of the file `path` leads to, from the root on, and its anchor; None: elsewhere, or here. A
    folder is its README, if it has one."""
    if re.match(r"[a-z]+:|#|/", link):
        return None
    name, _, anchor = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(path), name))
    readme = f"{target}/README.md"
    return readme if (ROOT / readme).exists() else target, f"#{anchor}" if anchor else ""


def prose(text: str) -> Iterator[tuple[bool, str]]:
    """The text in parts, in order: (whether it may have links, part)."""
    at = 0
    for fence in FENCE.finditer(text):
        yield True, text[at : fence.start()]
        yield False, fence[0]
        at = fence.end()
    yield True, text[at:]


def links(path: str, text: str) -> Iterator[str]:
    """The files and folders of the repository that it links to, from the root on."""
    for linked, part in prose(text):
        for match in LINK.finditer(part) if linked else ():
            found = target_of(path, match[2])
            if found is not None:
                yield found[0]


def relinked(path: str, text: str) -> str:
    """The file's text with links from the page that shows it to the pages that show what it links to."""
    here = os.path.dirname(page_of(path)) or "."

    def to(match: re.Match[str]) -> str:
        found = target_of(path, match[2])
        if found is None:
            return match[0]
        return match[1] + os.path.relpath(page_of(found[0]), here) + found[1]

    return "".join(LINK.sub(to, part) if linked else part for linked, part in prose(text))
