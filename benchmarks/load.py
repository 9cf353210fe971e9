"""Load, as outside programs make it. Every figure of errors that they report counts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from benchmarks.compiled import compiled
from benchmarks.peers import Peer

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    assert match, text
    return float(match[1]) * _SECONDS[match[2]]


def wrk(
    peer: Peer,
    clients: int,
    seconds: int,
    *,
    close: bool,
    threads: int = 1,
    script: Path | None = None,
    path: str = "/",
) -> tuple[float, dict[str, float]]:
    """(requests, figures) of wrk; with `close`, every request is a session of its own; `script` is in wrk's Lua."""
    command = [*peer.within, "wrk", f"-t{threads}", f"-c{clients}", f"-d{seconds}", "--latency"]
    command += ["-H", "Connection: close"] if close else []
    command += ["-s", str(script)] if script else []
    command += [f"http://{peer.host}:{peer.port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True)
    output = text.stdout
    requests = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = re.search(r"^\s+99%\s+(\S+)$", output, re.MULTILINE)
    assert requests, output
    assert rate, output
    assert p99, output
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed = sum(map(int, errors.groups())) if errors else 0
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failed += int(refused[1]) if refused else 0
    return float(requests[1]), {"requests/s": float(rate[1]), "p99 ms": _seconds(p99[1]) * 1e3, "failed": float(failed)}


def paced(
    peer: Peer, what: str, clients: int, rate: int, seconds: float, *files: Path
) -> tuple[float, dict[str, float]]:
    """(answers, figures) at `rate` requests a second: `what` is keep, close (a session each), file (the bytes of one in
    a session each) or dns."""
    command = [*peer.within, compiled("paced"), what, peer.host, str(peer.port), str(clients), str(rate), str(seconds)]
    command += map(str, files)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    kept = report["done"] / report["seconds"] / rate
    figures = {"p50 us": report["p50"], "p99 us": report["p99"], "rate kept": kept, "failed": float(report["failed"])}
    return float(report["done"]), figures


_AT_ONCE = 10_000_000  # a second: more than anybody serves


def counted(peer: Peer, what: str, clients: int, requests: int) -> tuple[float, dict[str, float]]:
    """(answers, figures) of so many requests, each client's next one as soon as it has its answer."""
    done, figures = paced(peer, what, clients, _AT_ONCE, requests / _AT_ONCE)
    return done, {"failed": figures["failed"]}


def dnsperf(peer: Peer, queries: Path, clients: int, seconds: int) -> tuple[float, dict[str, float]]:
    """(queries answered, figures) of dnsperf, flat out, each client on a socket of its own."""
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(peer.port), "-d", str(queries), "-c", str(clients), "-T", "1"]
    done = subprocess.run([*command, "-l", str(seconds)], capture_output=True, text=True, check=True)
    completed = re.search(r"Queries completed:\s+(\d+)", done.stdout)
    lost = re.search(r"Queries lost:\s+(\d+)", done.stdout)
    rate = re.search(r"Queries per second:\s+([\d.]+)", done.stdout)
    assert completed, done.stdout
    assert lost, done.stdout
    assert rate, done.stdout
    return float(completed[1]), {"queries/s": float(rate[1]), "failed": float(lost[1])}


def iperf3(
    peer: Peer, seconds: int, *, streams: int = 1, down: bool = False, gbit_s: int = 0
) -> tuple[float, dict[str, float]]:
    """(gigabytes received, figures) of iperf3 through `peer`; `down`: the backend sends; `gbit_s`: no faster."""
    command = ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(peer.port), "-t", str(seconds), "-P", str(streams)]
    command += (["-R"] if down else []) + (["-b", f"{gbit_s}G"] if gbit_s else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    received = report["end"]["sum_received"]
    return received["bytes"] / 1e9, {"Gbit/s": received["bits_per_second"] / 1e9}
