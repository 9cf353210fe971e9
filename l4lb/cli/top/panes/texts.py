"""Values as short texts."""

from __future__ import annotations

from datetime import datetime

from l4lb.cli.shared.texts import size_text


def rate_text(rate: float) -> str:
    return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def bytes_text(count: float) -> str:
    """No decimals for what has three digits."""
    value, unit = size_text(int(count)).split(" ")
    return f"{float(value):.0f}{unit[0]}" if len(value) > 4 or unit == "B" else f"{value}{unit[0]}"


def seconds_text(seconds: float) -> str:
    """Of a latency."""
    if seconds < 0.0999:
        return f"{seconds * 1000:.1f}ms"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"


def clock_text(at: float) -> str:
    """The local time of seconds since 1970, with the date if that is not today's."""
    then = datetime.fromtimestamp(at)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")


def short_clock_text(at: float) -> str:
    """The same in 12 columns."""
    then = datetime.fromtimestamp(at)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%d %b %H:%M")
