"""The checks by type. A new one is one module and one line here."""

from __future__ import annotations

from l4lb.control.health.checks import Check
from l4lb.control.health.tcp import check_tcp

CHECKS: dict[str, Check] = {
    "tcp": check_tcp,
}
