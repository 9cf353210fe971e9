"""examples/ops/README.md names no script and no option that is not there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.operating import SCRIPTS

SECTIONS = dict(re.findall(r"^## (\w+\.py)\n(.*?)(?=^## |\Z)", (SCRIPTS / "README.md").read_text(), re.M | re.S))


def test_every_script_has_its_section() -> None:
    assert {file.name for file in SCRIPTS.glob("*.py")} - {"common.py"} == set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_its_options_are_there(name: str) -> None:
    command = [sys.executable, str(SCRIPTS / name), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    there = set(re.findall(r"^ +(--[a-z][a-z-]+)", shown, re.M))
    said = set(
        re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", SECTIONS[name].replace("backend add web 10.0.0.9:8443 --weight", ""))
    )
    assert said <= there, said - there
