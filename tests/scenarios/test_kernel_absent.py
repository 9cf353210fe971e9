"""l4lb that was built without forwarding in the kernel: everything else is there, and the option says what it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import l4lb as package
from tests.support.peers import connect, echo, read_exactly, serving
from tests.support.programs import free_port, l4lb

FILE = """
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
{engine}
[pools.web]
policy = "maglev"
backends = ["{backend}"]
health = {{ type = "none" }}
"""


def test_the_option_says_what_it_takes(tmp_path: Path) -> None:
    code, file, port = tmp_path / "code", tmp_path / "lb.toml", free_port()
    ignored = shutil.ignore_patterns("__pycache__", "kernel.*.so", "*.o")
    shutil.copytree(Path(package.__file__).parent, code / "l4lb", ignore=ignored)
    arguments, within = ("serve", "-c", str(file), "--admin", "off"), ["env", "-C", str(code)]
    with serving(echo) as backend:
        file.write_text(FILE.format(port=port, backend=backend.address, engine='engine = "kernel"'))
        with l4lb("check", str(file), within=within) as process:
            assert process.wait() == 0
            assert "warning: " in process.log
            assert "l4lb was installed without it" in process.log
        with l4lb(*arguments, within=within) as process:
            assert process.wait() == 2
            assert "listeners.web.engine: " in process.log
            assert "l4lb was installed without it, which takes clang and libbpf" in process.log
            assert "Traceback" not in process.log
        file.write_text(FILE.format(port=port, backend=backend.address, engine=""))
        with l4lb(*arguments, within=within) as process:
            process.wait_for("listening")
            with connect(f"127.0.0.1:{port}") as sock:
                sock.sendall(b"hello")
                assert read_exactly(sock, 5) == b"hello"
