"""The README and the pages of docs/: short, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from l4lb.config import GlobalConfig, Listener, Pool

TOP = [Path(name) for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = sorted(Path("docs").glob("*.md"))
EXAMPLES = [*sorted(Path("examples").rglob("*.md")), *sorted(Path("contrib").rglob("*.md"))]
README_LINES_MAX = 150


def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^( *)```.*?^\1``` *$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made from their words everywhere."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    found = re.findall(r"""(?:\]\(|(?:src|srcset)=")([^)"\s]+)""", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", [*TOP, *PAGES, *EXAMPLES], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", [*TOP, *PAGES], ids=str)
def test_no_section_begins_within_a_sentence(page: Path) -> None:
    """Its heading is none of its words."""
    begins = re.findall(r"^(#+ .*)\n\n(?=[a-z(])(?!l4lb )(.*)", prose(page), re.MULTILINE)
    assert begins == []


def test_the_readme_is_what_a_newcomer_needs() -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES_MAX
    for command in ("make demo", "make test", "make deps"):
        assert f"{command} " in text or f"`{command}`" in text


def test_every_metric_that_is_named_exists() -> None:
    """Names that end with an underscore stand for all that begin so."""
    places = [*Path("l4lb/control/reporting").glob("*.py"), Path("l4lb/testing/plugin.py")]
    known = "\n".join(place.read_text(encoding="utf-8") for place in places)
    for page in PAGES:
        for name in re.findall(r"\bl4lb_[a-z]\w*", page.read_text(encoding="utf-8")):
            assert re.search(rf"\b{name.removesuffix('_total')}", known), f"{page}: {name}"


def test_time_outs_have_the_defaults_that_are_said() -> None:
    table = Path("docs/behaviour.md").read_text(encoding="utf-8").partition("| key | default |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \((\w+)\) \| (\S+)(?: (s|min))?", table, re.MULTILINE)
    models: dict[str, type[BaseModel]] = {"pool": Pool, "listener": Listener, "global": GlobalConfig}
    assert len(rows) == 7
    for key, kind, value, unit in rows:
        default = models[kind].model_fields[key].get_default(call_default_factory=True)
        assert default == (float(value) * (60 if unit == "min" else 1) if unit else 0), key


def test_every_page_can_be_found_from_the_readme() -> None:
    """By links from page to page."""
    waiting = [Path("README.md")]
    for page in waiting:  # grows
        named = [(page.parent / link.partition("#")[0]).resolve().relative_to(Path.cwd()) for link in links(page)]
        waiting += [one for one in dict.fromkeys(named) if one.suffix == ".md" and one not in waiting]
    assert [str(page) for page in PAGES if page not in waiting] == []
