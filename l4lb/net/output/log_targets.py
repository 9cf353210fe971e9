"""From the log target in a configuration to the sink that writes there."""

from __future__ import annotations

from l4lb.net.address import parse_address, resolve_backend
from l4lb.net.output.sinks import FileSink, Sink, StandardSink
from l4lb.net.output.syslog import SyslogSink


def open_sink(target: str, syslog: str, facility: str, message_id: str) -> Sink:
    """`target` is ``stdout``, ``stderr``, ``syslog`` (then at the address `syslog`) or a path.

    OSError when it cannot be opened, ValueError when the address has none. A syslog daemon may come later.
    """
    if target == "syslog":
        return SyslogSink(resolve_backend(parse_address(syslog)), facility, message_id)
    if target in ("stdout", "stderr"):
        return StandardSink(target, 1 if target == "stdout" else 2)
    return FileSink(target)
