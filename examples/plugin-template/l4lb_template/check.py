"""``health = { type = "banner", options = { begins = "220 " } }``: a server that greets its clients, as SMTP does."""

from __future__ import annotations

from l4lb.health import CheckFailed, Target, begin_step, open_stream


async def check_banner(target: Target) -> None:
    """Healthy when its first bytes are those of the option `begins`. The time-out is l4lb's to watch."""
    wanted = str(target.settings.options.get("begins", "")).encode()
    async with open_stream(target) as stream:
        begin_step("banner")
        got = b""
        while len(got) < len(wanted):
            if not (data := await stream.receive()):
                raise CheckFailed("banner", f"closed after {got!r}")
            got += data
    if not got.startswith(wanted):
        raise CheckFailed("banner", f"got {got[:40]!r}, expected {wanted!r}")
