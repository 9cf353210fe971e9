"""Commands are started out of one process, as in the scenarios."""

from __future__ import annotations

import pytest

from tests.support import forking


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    forking.start_server()
