"""The examples, used as their readers would."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.peers import connect, serving
from tests.support.programs import free_port, l4lb

EXAMPLES = Path("examples")


@pytest.fixture(scope="module")
def own_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example's package is installed to."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--target", str(target)]
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "own_policy.py"):
        (source / name).write_bytes((EXAMPLES / "own-policy" / name).read_bytes())
    subprocess.run([*command, *options, str(source)], check=True, timeout=120)
    return target


def config(directory: Path, policy: str, addresses: list[str]) -> str:
    cheap, middling, dear = addresses
    file = directory / "lb.toml"
    file.write_text(
        f"""
[listeners.default]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
policy = "{policy}"
backends = [
  {{ address = "{dear}", tags = {{ price = "0.35" }} }},
  {{ address = "{cheap}", tags = {{ price = "0.10" }}, max_sessions = 2 }},
  {{ address = "{middling}", tags = {{ price = "0.20" }}, max_sessions = 1 }},
]
health = {{ type = "none" }}
"""
    )
    return str(file)


def test_own_policy_cheapest(own_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(own_policy))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(greets(name))) for name in "cmd"]
        file = config(tmp_path, "cheapest", [server.address for server in servers])
        balancer = stack.enter_context(l4lb("serve", "-c", file, "--admin", f"unix:{tmp_path}/admin.sock"))
        address = balancer.address()
        got = "".join(stack.enter_context(connect(address)).recv(1).decode() for _ in range(5))
        assert got == "ccmdd"


def test_own_policy_jump_is_explained_from_the_file(
    own_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every slot of one backend is its own; two keep the first's slots where jump hash leaves them."""
    monkeypatch.setenv("PYTHONPATH", str(own_policy))
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    done = forking.run("explain", "web", "192.0.2.7", "-c", config(tmp_path, "jump", addresses))
    assert done.returncode == 0, done.stderr
    assert "pool web (jump): a client at 192.0.2.7 gets 127.0.0.1:" in done.stdout


def test_without_the_package_the_policy_is_unknown(tmp_path: Path) -> None:
    file = config(tmp_path, "cheapest", ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    done = forking.run("check", file)
    assert done.returncode == 2
    assert 'pools.web.policy: "cheapest": expected' in done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own that has what this one has, l4lb too."""
    place = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    ours, theirs = (sysconfig.get_path("purelib", vars={"base": base}) for base in (sys.prefix, str(place)))
    Path(theirs, "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return place


def test_the_template_of_plug_ins_installs_and_passes_its_tests(venv: Path, tmp_path: Path) -> None:
    source = tmp_path / "plugin-template"
    shutil.copytree(EXAMPLES / "plugin-template", source)
    python = str(venv / "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", str(source)]
    subprocess.run([*install, *options], check=True, timeout=300)
    shutil.rmtree(source / "l4lb_template")  # the installed one is used
    done = pytest_in(source, python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_a_client_is_tested_with_the_fixtures() -> None:
    done = pytest_in(EXAMPLES / "client-test", sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def pytest_in(directory: Path, python: str) -> subprocess.CompletedProcess[str]:
    """As its readers run it: with the plug-ins that are installed, and no configuration of ours."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "-c", "/dev/null", "."]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)


def greets(name: str):
    def answer(sock) -> None:
        sock.sendall(name.encode())
        while sock.recv(100):
            pass

    return answer
