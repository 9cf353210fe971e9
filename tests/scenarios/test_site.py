"""The documentation as a site, see `make docs`: it builds without a warning, has all that the code describes itself,
and asks for nothing from elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import click
import pytest

import l4lb
from l4lb.cli.main import cli
from l4lb.config.schema import json_schema
from l4lb.control.admin.routes import ROUTES
from tests.support.browser import WIDE, Visit, axe_violations, chromium
from tests.support.slow import first_and_slow, slow
from tests.support.waiting import wait_until
from tests.unit.control.reporting.test_families import CONTRACT

pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(name) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{name} is missing in CI: `make scenarios` installs the extra `docs`")
            pytest.skip(f"{name} is not installed: pip install -e '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def text_of(page: Path) -> str:
    """What is to be read there."""
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_of_docs_is_in_the_navigation(site: Path) -> None:
    navigation = Path("mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    for page in Path("docs").glob("*.md"):
        assert re.search(rf"[-:] {re.escape(page.name)}$", navigation, re.MULTILINE), page
        assert (site / page.with_suffix(".html").name).exists()


def test_every_option_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "configuration.html")
    for table in ("[global]", "[listeners.NAME]", "[[listeners.NAME.routes]]", "[pools.NAME.health]"):
        assert table in text
    for model in json_schema()["$defs"].values():
        for key, option in model.get("properties", {}).items():
            assert re.search(rf"\b{key}\b", text), key
            assert " ".join(option["description"].split()) in text, key


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(below, f"{path} {name}")


def test_every_command_and_its_options_are_in_the_reference(site: Path) -> None:
    text = text_of(site / "commands.html")
    for path, command in commands(cli, "l4lb"):
        assert path in text
        for param in command.params:
            assert all(option in text for option in param.opts if option.startswith("--")), (path, param)


def test_every_metric_route_and_public_name_is_in_the_reference(site: Path) -> None:
    metrics, routes, names = (text_of(site / f"{page}.html") for page in ("metrics", "routes-of-the-api", "api"))
    assert [name for name in CONTRACT if name not in metrics] == []
    assert [route.path for route in ROUTES if f"{route.method} {route.path}" not in routes] == []
    assert [name for name in l4lb.__all__ if not name.startswith("_") and name not in names] == []


def test_it_asks_for_nothing_from_elsewhere(site: Path) -> None:
    fetched = r'<(?:script|img|iframe|source)\b[^>]*\b(?:src|srcset)="([^"]*)"|<link\b[^>]*\bhref="([^"]*)"'
    for page in site.rglob("*.html"):
        for address in map("".join, re.findall(fetched, page.read_text(encoding="utf-8"))):
            assert not re.match(r"(https?:)?//", address), (page, address)
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\((?:https?:)?//[^)]*\)|@import", sheet.read_text(encoding="utf-8")) == [], sheet


# axe reads style sheets again, which pages that are files may not.
AXE_CANNOT = (
    "Couldn't load preload assets",
    "Access to XMLHttpRequest at 'file:",
    "Failed to load resource: net::ERR_FAILED",
)


@contextlib.contextmanager
def opened(page: Path, **context: Any) -> Iterator[Visit]:
    """A page of the site as a file; afterwards: no error on the console, and nothing asked of the network."""
    with chromium() as browser:
        visit = Visit(browser.new_context(**context).new_page(), AXE_CANNOT)
        visit.page.goto(page.as_uri())
        yield visit
        assert visit.unexpected() == []
        assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []


PAGES = ("index", "concepts", "configuration", "comparison")
LONG_PAGES = ("commands", "api")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), *slow((1400, "light"), (1400, "dark"), (400, "light"))])
@pytest.mark.parametrize("names", first_and_slow(PAGES, LONG_PAGES), ids="-".join)
def test_pages_fit_everybody_can_use_them_and_they_need_no_network(
    site: Path, names: tuple[str, ...], width: int, scheme: str
) -> None:
    for name in names:
        with opened(site / f"{name}.html", viewport={"width": width, "height": 900}, color_scheme=scheme) as visit:
            wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert visit.page.evaluate(wider) == 0, name
            assert visit.page.locator("h1").first.is_visible()
            assert axe_violations(visit.page) == [], name


def test_files_of_it_can_be_searched(site: Path) -> None:
    with opened(site / "index.html", viewport=WIDE) as visit:
        visit.page.locator(".md-search__input").click()
        visit.page.locator(".md-search__input").press_sequentially("half_close_timeout")
        found = visit.page.locator(".md-search-result__link")  # at first those for the letters that it has had by then
        wanted = re.compile(r"/(configuration|behaviour)\.html")
        assert wait_until(lambda: any(map(wanted.search, found.evaluate_all("all => all.map(one => one.href)"))))
