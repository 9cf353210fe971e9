"""``access_log = "plugin:tcp_lines"``: each record as a line of JSON to a TCP server, such as a log collector.

[global]
access_log = "plugin:tcp_lines"
access_log_options = { host = "127.0.0.1", port = 5170 }
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 5.0


class TcpLines:
    """Connects when there is something to write, and again after an error. What raises here is counted by l4lb."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """All of them, or an OSError: then this batch is lost, and the next one tries a new connection."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=TIMEOUT_S)
            self._socket.sendall(lines.encode())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """The server sees a FIN."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_sink(options: dict[str, Any]) -> TcpLines:
    """ValueError says what is wrong with the options; l4lb shows it as an error of the configuration."""
    if unknown := options.keys() - {"host", "port"}:
        raise ValueError(f'unknown option "{min(unknown)}": expected host and port')
    port = options.get("port")
    if not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError("expected a port, such as { port = 5170 }")
    return TcpLines(str(options.get("host", "127.0.0.1")), port)
