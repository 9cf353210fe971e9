"""What starts `l4lb` for the scenarios gives each test its own child, also after one that did not wait for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from l4lb.version import __version__
from tests.support import forking
from tests.support.namespaces import namespaces


def test_an_answer_that_comes_late_is_not_that_of_the_next_request() -> None:
    status, status_of_server = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    arguments = ["serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", "off"]
    request = {"arguments": arguments, "environment": dict(os.environ), "directory": os.getcwd(), "number": -1}
    request |= {"network": "", "code": ""}
    try:
        forking._server(os.getpid()).send(request, [null, null, status_of_server, null])
        os.close(status_of_server)
        assert forking.run("--version").stdout == f"l4lb, version {__version__}\n"
        assert os.read(status, 16) == b"-9", "nobody has it, so that it was ended"
    finally:
        os.close(status)
        os.close(null)


def test_a_command_reads_what_it_is_given() -> None:
    done = forking.run("check", "-", stdin=b"[listeners.web]\n")
    assert done.returncode == 2
    assert "listeners.web.bind" in done.stderr


def test_a_program_talks_ends_and_fails_as_one_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with forking.python(
        "import sys\nfor line in sys.stdin: print(sys.argv[1:], line, end='', flush=True)", "a"
    ) as echo:
        for word in ("one", "two"):
            print(word, file=echo.stdin, flush=True)
            assert echo.stdout.readline() == f"['a'] {word}\n"
        assert echo.communicate(60) == ("", "")
        assert echo.returncode == 0
    with forking.python("import threading\nthreading.Event().wait()") as endless:
        pass
    assert endless.returncode == -9
    with forking.python("import sys\nsys.exit(3)") as failing, forking.python("1 / 0") as raising:
        assert (failing.wait(60), raising.wait(60)) == (3, 1)
    assert capfd.readouterr().err.endswith("ZeroDivisionError: division by zero\n")


def test_in_a_network_namespace_it_sees_that_ones_devices_alone() -> None:
    code = "import os, socket\nprint([name for _, name in socket.if_nameindex()], os.listdir('/sys/class/net'))"
    with namespaces(f"l4lb-{os.getpid()}-forking") as (host,):
        assert host.run_python(code) == "['lo'] ['lo']\n"
        assert host.run_python(code) == host.run(sys.executable, "-c", code)
    assert Path("/sys/class/net").is_dir()


def test_what_is_imported_is_found_as_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "l4lb_test_hooks.py").write_text("def on_close(record): ...\n")
    file = tmp_path / "lb.toml"
    file.write_text(
        '[hooks]\nmodule = "l4lb_test_hooks"\n'
        '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
    )
    assert forking.run("check", str(file)).returncode == 2
    assert forking.run("check", str(file), environment={"PYTHONPATH": str(tmp_path)}).returncode == 0
