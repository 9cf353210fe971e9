"""The dashboard's files as they are served, and what the API gives for them."""

from __future__ import annotations

import http.client
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from l4lb import LoadBalancer
from l4lb.config import AdminConfig
from l4lb.control.admin.page import FILES, PAGE, POLICY
from l4lb.version import __version__
from tests.support.balancing import make_config

FOLDER = Path("l4lb/control/admin/dashboard")
ENTRIES = sorted(entry for entry in FOLDER.rglob("*") if entry.is_file())
NAMESPACE = "http://www.w3.org/2000/svg"


def with_admin(backend: str = "127.0.0.1:1", **admin: object) -> LoadBalancer:
    config = make_config([backend])
    return LoadBalancer(config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0", **admin)}))


def fetch(address: str, path: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, dict(response.headers), text


def test_every_file_is_served_with_its_type_and_may_load_nothing_else(tmp_path: Path) -> None:
    """Without the token that the API asks for: there is no data in them."""
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    with with_admin(token_file=str(token_file)) as balancer:
        for path in ("/", *FILES):
            status, headers, text = fetch(balancer.admin_address, path)
            assert (status, headers["Content-Security-Policy"]) == (200, POLICY), path
            assert headers["Content-Type"].split(";")[0] == kinds.get(Path(path).suffix, "text/html")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert text
        assert fetch(balancer.admin_address, "/dashboard/index.html")[0] == 401
        assert fetch(balancer.admin_address, "/dashboard/../page.py")[0] == 401


def test_all_files_are_there_and_named_by_the_page_or_by_each_other() -> None:
    texts = [PAGE.text, *(file.read_text() for file in ENTRIES if file.suffix == ".js")]
    named = {FOLDER / name for text in texts for name in re.findall(r'"dashboard/([\w./-]+)"', text)}
    for file in ENTRIES:
        imported = re.findall(r'from "(\.[\w./-]+)"', file.read_text()) if file.suffix == ".js" else []
        named |= {Path(os.path.normpath(file.parent / name)) for name in imported}
    assert {f"/dashboard/{file.relative_to(FOLDER)}" for file in named} == set(FILES)
    assert set(ENTRIES) == named | {FOLDER / "index.html"}
    assert f'content="{__version__}"' in PAGE.text


@pytest.mark.parametrize("file", ENTRIES, ids=lambda file: file.name)
def test_nothing_is_inline_nor_from_elsewhere_nor_too_long(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"https?://[^\s\"']+", text) in ([], [NAMESPACE])
    assert len(text.splitlines()) <= 300
    assert [line for line in text.splitlines() if len(line) > 120] == [] or file.suffix == ".svg"
    if file.suffix == ".html":
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text)
    if file.suffix == ".js":
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)


def test_without_the_dashboard_none_of_it_is_served() -> None:
    with with_admin(dashboard=False) as balancer:
        for path in ("/", *FILES):
            assert fetch(balancer.admin_address, path)[0] == 404, path


def test_no_folder_of_it_is_crowded() -> None:
    counts = Counter(file.parent for file in ENTRIES if file.suffix == ".js")
    assert max(counts.values()) <= 16
