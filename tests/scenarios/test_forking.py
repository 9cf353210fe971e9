"""What starts `l4lb` for the scenarios gives each test its own child, also after one that did not wait for it."""

from __future__ import annotations

import os

from l4lb.version import __version__
from tests.support import forking


def test_an_answer_that_comes_late_is_not_that_of_the_next_request() -> None:
    status, status_of_server = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    arguments = ["serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", "off"]
    request = {"arguments": arguments, "environment": dict(os.environ), "directory": os.getcwd(), "number": -1}
    try:
        forking._server(os.getpid()).send(request, [null, null, status_of_server])
        os.close(status_of_server)
        assert forking.run("--version").stdout == f"l4lb, version {__version__}\n"
        assert os.read(status, 16) == b"-9", "nobody has it, so that it was ended"
    finally:
        os.close(status)
        os.close(null)
