"""`l4lb convert` as operators type it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.convert.samples import DIRECTORY
from tests.support import forking

SAMPLE = DIRECTORY / "haproxy" / "redis.cfg"


def test_to_a_file(tmp_path: Path) -> None:
    done = forking.run("convert", str(SAMPLE), "-o", str(tmp_path / "lb.toml"))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "lb.toml").read_text() == SAMPLE.with_suffix(".toml").read_text()


def test_to_a_place_that_is_not_there(tmp_path: Path) -> None:
    done = forking.run("convert", str(SAMPLE), "-o", str(tmp_path / "none" / "lb.toml"))
    assert done.returncode == 1
    assert "cannot be written: No such file or directory" in done.stderr


def test_from_stdin() -> None:
    done = forking.run("convert", "-", stdin=SAMPLE.read_bytes())
    expected = SAMPLE.with_suffix(".toml").read_text().replace(str(SAMPLE), "stdin")
    assert (done.returncode, done.stdout) == (0, expected)


def test_the_wrong_format_is_an_error_with_its_line() -> None:
    done = forking.run("convert", "--from", "nginx", str(SAMPLE))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{SAMPLE}:2: ")


def test_what_has_nothing_for_layer_4(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        "defaults\n mode http\nfrontend web\n bind :80\n default_backend b\nbackend b\n server s 10.0.0.1:80\n"
    )
    done = forking.run("convert", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"not converted: {file}:3: frontend web: mode http" in done.stderr
    assert "nothing in it is for a layer-4 load balancer" in done.stderr


@pytest.mark.parametrize("name", ["haproxy/redis.cfg", "nginx/databases.conf"])
def test_comments_of_another_encoding_and_other_line_ends(name: str, tmp_path: Path) -> None:
    """As HAProxy and nginx take it; the lines are the same."""
    file, content = tmp_path / "file", (DIRECTORY / name).read_bytes()
    file.write_bytes(content)
    expected = forking.run("convert", str(file)).stdout
    assert len(expected) > 200
    file.write_bytes(b"# Caf\xe9 " + content.replace(b"\n", b"\r\n"))
    done = forking.run("convert", str(file))
    assert (done.returncode, done.stdout) == (0, expected)
