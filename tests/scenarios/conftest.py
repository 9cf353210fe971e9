"""What the scenarios of a process share: one process out of which `l4lb` is started, and one browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import browser, forking


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    forking.start_server()


@pytest.fixture(scope="session", autouse=True)
def one_browser() -> Iterator[None]:
    yield
    browser.stop_chromium()
