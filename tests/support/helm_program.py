"""`helm lint` and `helm template` as far as tests use them, by the package helm-python-sdk, which has Helm's own code.

A program, because that code starts threads which stay.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

WARNING = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    lint = verbs.add_parser("lint")
    lint.add_argument("--strict", action="store_true", required=True)
    lint.add_argument("chart")
    template = verbs.add_parser("template")
    template.add_argument("release")
    template.add_argument("chart")
    template.add_argument("--namespace", required=True)
    template.add_argument("--values", type=Path, required=True)
    return parser.parse_args()


def lint(helm: Any, chart: str) -> None:
    report = helm.chart.lint(chart, strict=True)
    remarks = [f"{one['path']}: {one['error']}" for one in report["messages"] if one["severity"] >= WARNING]
    if remarks or report["errors"]:
        sys.exit("\n".join([*remarks, *report["errors"]]))


def template(helm: Any, given: argparse.Namespace) -> None:
    values = helm.chart.values_from_yaml(given.values.read_text())
    with helm.Chart.load(given.chart) as chart:
        texts = chart.render(values, name=given.release, namespace=given.namespace)
    for name, text in sorted(texts.items()):
        if name.endswith(".yaml"):
            print(f"---\n# Source: {name}\n{text}")


def main() -> None:
    given, helm = arguments(), importlib.import_module("helm_python")
    try:
        lint(helm, given.chart) if given.verb == "lint" else template(helm, given)
    except helm.HelmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
