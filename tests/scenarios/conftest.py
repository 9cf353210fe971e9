"""What the scenarios of a process share: one process out of which `l4lb` is started, one browser, and hosts that
forward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import browser, forking
from tests.support.forwarding import forwarding_hosts
from tests.support.namespaces import Hosts


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    forking.start_server()


@pytest.fixture(scope="session", autouse=True)
def one_browser() -> Iterator[None]:
    yield
    browser.stop_chromium()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Those between which the kernel forwards; some modules have others of that name."""
    with forwarding_hosts() as made:
        yield made
