"""The chart in contrib/helm as Helm renders it: by the program `helm`, or else by `tests.support.helm_program`, which
is made of Helm's own code. Debian has neither; `make charts` installs what the latter needs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.programs import without_preload

CHART = Path("contrib/helm/l4lb")
RELEASE = NAMESPACE = "l4lb"


class Refused(Exception):
    """With what Helm says."""


class Helm:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def lint(self) -> None:
        """Refused for anything that a strict lint has against the chart."""
        self._said("lint", "--strict", str(CHART))

    def render(self, values: Mapping[str, Any]) -> str:
        """YAML documents. `values` are added to the chart's own; Refused when Helm refuses them."""
        with TemporaryDirectory() as directory:
            file = Path(directory) / "values.json"
            file.write_text(json.dumps(values))
            return self._said("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", str(file))

    def _said(self, *arguments: str) -> str:
        command = [*self._command, *arguments]
        done = subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout


def required() -> Helm:
    """Without Helm the test is skipped."""
    if program := shutil.which("helm"):
        return Helm([program])
    if importlib.util.find_spec("helm_python"):
        return Helm([sys.executable, "-m", "tests.support.helm_program"])
    pytest.skip("neither helm (Debian has no package of it) nor helm-python-sdk is installed: see `make charts`")
