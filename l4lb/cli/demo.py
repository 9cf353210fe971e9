"""``l4lb demo``: see it work in ten seconds, with nothing else installed."""

from __future__ import annotations

import signal

import click

from l4lb import logs
from l4lb.cli.serve import STOP_SIGNALS
from l4lb.config import GlobalConfig
from l4lb.demo import PREFERRED_ADMIN_PORT, PREFERRED_PORT, Demo, running_demo

REQUESTS = 30


def _what_to_try(demo: Demo) -> str:
    return f"""
Try next, in another terminal:
  curl http://{demo.address}/                      a backend's answer; again, and another one answers
  curl http://{demo.admin}/v1/status               everything as JSON
  l4lb status --admin {demo.admin}                 the same as tables
  l4lb top --admin {demo.admin}                    the same live; d drains a backend, r readies it, q quits
  open http://{demo.admin}/                        the dashboard
Ctrl-C ends the demo."""


@click.command()
@click.option("--once", is_flag=True, help="Send the traffic, print what came, and exit.")
def demo(once: bool) -> None:
    """Run three small backends behind a load balancer and send traffic through it."""
    logs.set_up(GlobalConfig())
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    with running_demo() as running:
        for wanted, address in ((PREFERRED_PORT, running.address), (PREFERRED_ADMIN_PORT, running.admin)):
            if not address.endswith(f":{wanted}"):
                click.echo(f"Port {wanted} is taken: using {address} instead.")
        click.echo(f"\nSent {REQUESTS} requests through {running.address}:")
        for answer, count in sorted(running.send(REQUESTS).items()):
            click.echo(f"  {count:3d} x {answer}")
        if not once:
            click.echo(_what_to_try(running))
            signal.sigwait(STOP_SIGNALS)
