"""`make lab` (as root): forwarding in the kernel between hosts of one's own, each a network namespace.

Starts a client, a router, a balancer and three backends (nginx, dnsmasq, iperf3), draws them, says what to try, and
stays until Ctrl-C; then nothing of it is left. `--two-tiers`: two proxies behind the balancer, two services behind
those, which see their clients by PROXY headers. `--check` goes through all modes, families and ways to attach, or those
that are named, with real clients, and exits with 0 or 1.

`--fleet`: three balancers instead, which have their configuration from etcd, and tell a router by BGP that they have
the service's address; as proxies, or with `--engine kernel`. The router spreads connections over a resilient group of
next hops, or with `--spreading plain` by their number.

    make lab ARGS="--mode dsr --family 6 --attach native"
    make lab ARGS=--check
    make lab ARGS="--fleet --check"
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from l4lb.net.environment import KERNEL_NEEDS
from tests.lab import matrix, showing
from tests.lab.cells import FAMILIES, MODES, WAYS, Cell, cells
from tests.lab.checks import ONE_TIER
from tests.lab.fleet import running
from tests.lab.fleet.checks import CHECKS
from tests.lab.fleet.lab import fleet
from tests.lab.labs import one_tier, two_tiers
from tests.lab.place import LabError
from tests.lab.processes import Processes
from tests.lab.servers import PROGRAMS
from tests.lab.tier_checks import TWO_TIERS

_LOOK_S = 0.5  # how often it looks whether all programs are there still


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", text):
        raise argparse.ArgumentTypeError(f'"{text}": expected up to 31 letters, digits and hyphens, a letter first')
    return text


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=MODES, help="how packets are forwarded: nat; with --check all")
    parser.add_argument("--family", choices=FAMILIES, type=int, help="of IP: 4; with --check both")
    parser.add_argument("--attach", choices=WAYS, help="where packets are seen: tcx; with --check all")
    parser.add_argument("--two-tiers", action="store_true", help="proxies behind the balancer, services behind them")
    parser.add_argument("--fleet", action="store_true", help="three balancers behind a router")
    parser.add_argument("--engine", choices=running.ENGINES, help="of the fleet's balancers: proxy; with --check both")
    parser.add_argument("--spreading", choices=running.SPREADINGS, help="how the router spreads: resilient; ... both")
    parser.add_argument("--check", action="store_true", help="ask real clients, print a table, exit with 0 or 1")
    parser.add_argument("--name", type=_name, default="lab", help="what the namespaces begin with (lab)")
    return parser.parse_args(arguments)


def _missing(programs: Sequence[str]) -> str:
    """Why there can be no lab here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces can be made by root alone"
    if importlib.util.find_spec("l4lb._native.kernel") is None:
        return KERNEL_NEEDS
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in programs if shutil.which(program, path=path) is None]
    return f"not installed: {', '.join(absent)} (see `make deps`)" if absent else ""


def _wanted(options: argparse.Namespace) -> list[Cell]:
    modes = [options.mode] if options.mode else list(MODES)
    families = [options.family] if options.family else list(FAMILIES)
    ways = [options.attach] if options.attach else list(WAYS)
    return cells(modes, families, ways)


class Stop(threading.Event):
    """Set by a signal, and looked at between steps: none is broken off half-way, so that all is cleaned up."""

    by = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.by = number
        self.set()


@contextmanager
def _stopping() -> Iterator[Stop]:
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stay(text: str, processes: Processes, stop: Stop) -> None:
    """Also when programs end, as those that a person kills: that is said."""
    print(text, flush=True)
    told: set[str] = set()
    while not stop.wait(_LOOK_S):
        for name, said in processes.ended().items():
            if name not in told:
                told.add(name)
                print(said, flush=True)


def _fleet(options: argparse.Namespace) -> int:
    engines = [options.engine] if options.engine else list(running.ENGINES)
    spreadings = [options.spreading] if options.spreading else list(running.SPREADINGS)
    with _stopping() as stop:
        if options.check:
            every = [(engine, spreading) for engine in engines for spreading in spreadings]
            held = [running.check(options.name, *one, list(CHECKS), stop) for one in every if not stop.is_set()]
            return 128 + stop.by if stop.is_set() else int(not all(held))
        try:
            with fleet(options.name, engines[0], spreadings[0]) as lab:
                _stay(running.text(lab, options.name), lab.processes, stop)
        except (LabError, AssertionError) as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if reason := _missing((*running.PROGRAMS,) if options.fleet else (*PROGRAMS, "clang")):
        print(f"lab: {reason}", file=sys.stderr)
        return 2
    if options.fleet:
        return _fleet(options)
    make, checks = (two_tiers, TWO_TIERS) if options.two_tiers else (one_tier, ONE_TIER)
    wanted = _wanted(options)
    with _stopping() as stop:
        if options.check:
            held = matrix.check(options.name, make, checks, wanted, stop)
            return 128 + stop.by if stop.is_set() else int(not held)
        try:
            with make(options.name, wanted[0]) as lab:
                _stay(showing.text(lab), lab.processes, stop)
        except (LabError, AssertionError) as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
