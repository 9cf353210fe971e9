"""What the scenarios of a process share: one process out of which `l4lb` is started, one browser, and hosts that
forward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import forking
from tests.support.browser import start_chromium, stop_chromium
from tests.support.forwarding import forwarding_hosts
from tests.support.namespaces import Hosts


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    forking.start_server()


@pytest.fixture(scope="session")
def browser() -> Iterator[None]:
    start_chromium()
    yield
    stop_chromium()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Those between which the kernel forwards; some modules have others of that name."""
    with forwarding_hosts() as made:
        yield made
