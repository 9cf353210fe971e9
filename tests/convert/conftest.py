"""The process out of which `l4lb` is started."""

from __future__ import annotations

import pytest

from tests.support import forking


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    forking.start_server()
