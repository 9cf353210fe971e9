"""Chromium without a window, for the dashboard: Debian's build that can do no other takes half the processor time.
Driven by Playwright; axe-core looks for what people with other senses or hands cannot use."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.programs import require, without_preload
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TIMEOUT_MS = 60_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1440, "height": 900}
# The page says one thing after another in the same place: each is kept, also what is there for a moment only.
LISTENING = """
window.heard = [];
document.addEventListener("DOMContentLoaded", () => {
  const said = document.querySelector("[role=status]");
  const hear = () => { if (said.textContent) window.heard.push(said.textContent); };
  if (said) new MutationObserver(hear).observe(said, {childList: true, characterData: true, subtree: true});
});
"""


def _require_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing in CI: `make scenarios` installs the extra `browser`")
        pytest.skip(f"{name} is not installed: pip install -e '.[browser]'")


class _Chromium:
    """One for all tests of this process: a start, and one of Playwright's program, takes a second of CPU time each."""

    def __init__(self) -> None:
        _require_module("playwright")
        from playwright.sync_api import sync_playwright

        self._path = require("chromium-headless-shell")
        self._loop: asyncio.AbstractEventLoop | None = None
        with self._calling():
            self._playwright = sync_playwright().start()
            self._browser = self._launch()

    @contextlib.contextmanager
    def used(self) -> Iterator[Browser]:
        with self._calling():
            if not self._browser.is_connected():
                self._browser = self._launch()
            asyncio.get_running_loop().set_default_executor(executor := ThreadPoolExecutor())
            try:
                yield self._browser
            finally:
                for context in self._browser.contexts:
                    context.close()
                executor.shutdown()

    def stop(self) -> None:
        with self._calling():
            self._browser.close()
            self._playwright.stop()

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Playwright's loop is this thread's running one between its calls; other tests run their own."""
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            self._loop = asyncio._get_running_loop()
            asyncio._set_running_loop(None)

    def _launch(self) -> Browser:
        options: dict[str, Any] = {"handle_sigint": False, "env": without_preload()}
        return self._playwright.chromium.launch(executable_path=self._path, args=FLAGS, **options)


_started: list[_Chromium] = []


def start_chromium() -> None:
    """Before a test that uses it counts descriptors: some stay open until `stop_chromium`."""
    if not _started:
        _started.append(_Chromium())


def stop_chromium() -> None:
    """At the end of all tests."""
    while _started:
        _started.pop().stop()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """What is opened there is gone afterwards, cookies and storage too."""
    start_chromium()
    with _started[-1].used() as browser:
        yield browser


class Visit:
    """A page with what it said and asked for. `expected`: texts of console messages that the test itself provokes."""

    def __init__(self, page: Page, expected: tuple[str, ...] = ()) -> None:
        self.page = page
        self.expected = list(expected)
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def unexpected(self) -> list[str]:
        return [text for text in self.errors if not any(known in text for known in self.expected)]

    def elsewhere(self, origin: str) -> list[str]:
        """What was asked of others than `origin`."""
        return [url for url in self.requests if not url.startswith(f"{origin}/")]

    def until(self, expression: str, argument: object = None) -> None:
        """Wait until the JavaScript `expression` holds. (Playwright's own wait is eval, which the page forbids.)"""
        assert wait_until(lambda: self.page.evaluate(expression, argument), TIMEOUT_MS / 1000), expression

    def hear(self, text: str) -> None:
        """Wait until the page has said `text` to screen readers, since it was opened."""
        self.until("text => window.heard.some(said => said.includes(text))", text)

    def press_until(self, key: str, reached: Callable[[], bool], at_most: int = 80) -> int:
        """Press `key` until `reached`; how often."""
        for count in range(1, at_most + 1):
            self.page.keyboard.press(key)
            if reached():
                return count
        raise AssertionError(f"{at_most} times {key}, and not there: {self.focused()}")

    def focused(self) -> str:
        """The name of what has the focus."""
        name = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
        return str(self.page.evaluate(name))


@contextlib.contextmanager
def visiting(url: str, expected: tuple[str, ...] = (), **context: Any) -> Iterator[Visit]:
    """The page at `url`; afterwards: no error on the console, and nothing asked of another origin."""
    with chromium() as browser:
        opened = browser.new_context(**{"viewport": WIDE, **context})
        opened.add_init_script(LISTENING)
        visit = Visit(opened.new_page(), expected)
        visit.page.goto(url)
        yield visit
        assert visit.unexpected() == []
        assert visit.elsewhere(url.rstrip("/")) == []


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds, of any impact, each with the elements."""
    _require_module("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['impact']} {one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]
