"""Configurations of the kind that people publish, and what becomes of them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from l4lb import Config
from tests.convert.samples import HAPROXY, NGINX, SAMPLES, name_of
from tests.support import forking
from tests.support.programs import require, without_preload


def test_there_are_a_dozen() -> None:
    assert len(HAPROXY) >= 9
    assert len(NGINX) >= 5


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_the_result_is_the_expected_one(path: Path) -> None:
    done = forking.run("convert", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == path.with_suffix(".toml").read_text()
    assert done.stderr == path.with_suffix(".lost").read_text()


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_l4lb_check_takes_the_result(path: Path) -> None:
    done = forking.run("check", str(path.with_suffix(".toml")))
    assert done.returncode == 0, done.stderr
    assert Config.load(path.with_suffix(".toml")).listeners


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_strict_counts_what_was_lost(path: Path) -> None:
    done = forking.run("convert", "--strict", str(path))
    lost = "not converted: " in path.with_suffix(".lost").read_text()
    assert done.returncode == (1 if lost else 0), done.stderr


@pytest.mark.external
@pytest.mark.parametrize("path", HAPROXY, ids=name_of)
def test_haproxy_takes_the_original(path: Path) -> None:
    command = [require("haproxy"), "-c", "-f", str(path)]
    done = subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or "cannot find user" in done.stderr.lower(), done.stderr


@pytest.mark.external
@pytest.mark.parametrize("path", NGINX, ids=name_of)
def test_nginx_takes_the_original(path: Path) -> None:
    """Up to its certificates, which are not here, and ports below 1024, which it would only bind."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    with tempfile.TemporaryDirectory() as directory:
        text = "\n".join(line for line in path.read_text().split("\n") if not line.startswith(("load_module", "pid")))
        loaded = f"load_module {module};\n" if module.exists() else ""
        file = Path(directory, "nginx.conf")
        file.write_text(f"{loaded}pid {directory}/pid;\n{text}")
        command = [require("nginx"), "-t", "-c", str(file), "-e", f"{directory}/error.log"]
        done = subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or "/etc/ssl/site" in done.stderr, done.stderr
