"""``l4lb demo``: see it work in ten seconds, with nothing else installed."""

from __future__ import annotations

import os
import signal
import threading

import click

from l4lb import logs
from l4lb.cli.serve import STOP_SIGNALS
from l4lb.config import GlobalConfig
from l4lb.demo import PREFERRED_ADMIN_PORT, PREFERRED_ECHO_PORT, PREFERRED_PORT, Demo, running_demo
from l4lb.net.limits import keep_address_space

REQUESTS = 30
DATAGRAMS = 10
WANTED_PORTS = (PREFERRED_PORT, PREFERRED_ECHO_PORT, PREFERRED_ADMIN_PORT)


ASK = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'hi', ({host!r}, {port})); print(s.recv(99))"


def _what_to_try(demo: Demo) -> str:
    host, _, port = demo.echo_address.rpartition(":")
    return f"""
Try next, in another terminal:
  curl http://{demo.address}/                      a backend's answer; again, and another one answers
  echo hello | nc -u -w 1 {host} {port}           the UDP echo's answer; without nc:
  python3 -c "{ASK.format(host=host, port=port)}"
  curl http://{demo.admin}/v1/status               everything as JSON
  l4lb status --admin {demo.admin}                 the same as tables
  l4lb top --admin {demo.admin}                    the same live; ? lists its keys, d drains a backend, q quits
  open http://{demo.admin}/                        the dashboard
Ctrl-C ends the demo."""


@click.command()
@click.option("--once", is_flag=True, help="Send the traffic, print the answers, and exit.")
def demo(once: bool) -> None:
    """Run three small backends and a UDP echo behind a load balancer and send traffic through it."""
    logs.set_up(GlobalConfig())
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    keep_address_space()
    stop = _stop_signal()
    with running_demo() as running:
        found = (running.address, running.echo_address, running.admin)
        for wanted, address in zip(WANTED_PORTS, found, strict=True):
            if not address.endswith(f":{wanted}"):
                click.echo(f"Port {wanted} is taken: using {address} instead.")
        click.echo(f"\nSent {REQUESTS} requests through {running.address}:")
        for answer, count in sorted(running.send(REQUESTS).items()):
            click.echo(f"  {count:3d} x {answer}")
        click.echo(f"\nSent {DATAGRAMS} datagrams through {running.echo_address}:")
        click.echo(f"  {running.send_datagrams(DATAGRAMS):3d} came back")
        if not once:
            click.echo(_what_to_try(running))
            stop.wait()


def _stop_signal() -> threading.Event:
    """Set by the first signal to stop; a second one ends the process at once."""
    stop = threading.Event()

    def listen() -> None:
        signal.sigwait(STOP_SIGNALS)
        stop.set()
        signal.sigwait(STOP_SIGNALS)
        os._exit(0)

    threading.Thread(target=listen, name="l4lb-signal", daemon=True).start()
    return stop
