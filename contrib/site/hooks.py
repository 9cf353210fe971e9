"""What mkdocs calls while it builds the site, see mkdocs.yml: adds the pages that are not in docs/, fills in what is
generated, and lets links lead to pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from places import DOCS, ROOT, is_picture, page_of, relinked
from reference import filled
from sources import outside, text_of

_AFTERWARDS = "---\nsearch: {boost: 0.2}\n---\n"  # a search finds pages of docs/ first
_SEARCH = 'data-md-component="search" role="dialog"'
_DIAGRAM = re.compile(r"!\[[^\]]*\]\((diagrams/[\w-]+\.svg)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in outside():
        if is_picture(path):
            files.append(File.generated(config, page_of(path), content=(ROOT / path).read_bytes()))
        else:
            text = _AFTERWARDS + relinked(path, text_of(path))
            files.append(File.generated(config, page_of(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.generated_by is None:
        markdown = relinked(DOCS + page.file.src_uri, filled(markdown))
    return _DIAGRAM.sub(lambda match: drawn(match[1]), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The search has a name, for those who hear the page."""
    return output.replace(_SEARCH, f'{_SEARCH} aria-label="Search"')


def drawn(path: str) -> str:
    """A diagram as a part of the page, whose colours it takes."""
    text = (ROOT / DOCS / path).read_text(encoding="utf-8")
    return re.sub(r"<style>.*?</style>\n", "", text, flags=re.DOTALL)
