"""Pages for what is not in docs/: documents as they are, folders and files as blocks of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from places import DOCS, ROOT, links

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LANGUAGES = {".toml": "toml", ".py": "python", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".json": "json",
              ".service": "ini", ".socket": "ini", ".sql": "sql"}  # fmt: skip
_SHOWN_MAX = 60_000


def outside() -> list[str]:
    """Paths that the site has pages for and docs/ has not: the documents, and what is linked to from page to page."""
    found: list[str] = []
    waiting = [*DOCUMENTS, *(str(page.relative_to(ROOT)) for page in sorted((ROOT / DOCS).glob("*.md")))]
    for path in waiting:  # grows
        if not path.startswith(DOCS):
            found.append(path)
        waiting += [one for one in dict.fromkeys(links(path, text_of(path))) if one not in waiting]
    return found


def text_of(path: str) -> str:
    """In Markdown, with links as they are in the file; empty for a picture, or what is not there."""
    here = ROOT / path
    if here.is_dir() or path.endswith("/README.md"):
        return _folder(path.removesuffix("/README.md"))
    if path.endswith(".md"):
        return _text(here)
    return "" if here.suffix in (".png", ".svg") or not here.is_file() else f"# {path}\n\n{_block(here)}"


def _folder(path: str) -> str:
    """Its README, then its files."""
    here = ROOT / path
    readme = here / "README.md"
    head = _text(readme) if readme.exists() else f"# {path}\n"
    return head + "".join(f"\n## {file.relative_to(here)}\n\n{_block(file)}\n" for file in _files(here))


def _files(here: Path) -> Iterator[Path]:
    """What git would have of it, without the README."""
    for file in sorted(here.rglob("*")):
        made = "__pycache__" in file.parts or any(part.endswith(".egg-info") for part in file.parts)
        if file.is_file() and file.name != "README.md" and not made:
            yield file


def _block(file: Path) -> str:
    text = _text(file)[:_SHOWN_MAX].rstrip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{_LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
