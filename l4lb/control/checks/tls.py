"""The ``tls`` check: a whole handshake, with the certificate verified if `verify` says so, and an orderly close."""

from __future__ import annotations

from l4lb.control.checks.checks import Target
from l4lb.control.checks.stream import open_tls


async def check_tls(target: Target) -> None:
    """Raises CheckFailed at steps ``connect`` and ``tls``; the caller bounds the time."""
    async with open_tls(target, target.settings.server_name):
        pass
