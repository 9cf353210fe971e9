"""``l4lb serve``: run until told to stop. The main thread waits for signals; everything else has threads of its own."""

from __future__ import annotations

import gc
import signal
import threading
from pathlib import Path

import click

from l4lb import logs
from l4lb.balancer import LoadBalancer
from l4lb.config import Config, Flags, from_flags, load

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _config(file: str | None, flags: Flags) -> Config:
    if file is not None:
        return load(Path(file), flags)
    if not flags.any_routing:
        raise click.UsageError("give a configuration (-c lb.toml) or --listen ADDR and --backend ADDR")
    return from_flags(flags)


@click.command()
@click.option("-c", "--config", "file", type=click.Path(), help="Configuration file (TOML).")
@click.option("--listen", "listen", multiple=True, metavar="ADDR", help="Listen here; may be given again.")
@click.option("--backend", "backends", multiple=True, metavar="ADDR[,weight=N]", help="A backend; may be given again.")
@click.option("--policy", metavar="P", help="How a backend is chosen, e.g. least_sessions or maglev.")
@click.option("--protocol", metavar="tcp", help="Protocol of --listen.")
@click.option("--workers", metavar="N", help="Worker threads, or auto.")
@click.option("--admin", metavar="ADDR", help="Address of the admin API, or off.")
@click.option("--log-level", metavar="L", help="debug, info, warning or error.")
def serve(file: str | None, **given: object) -> None:
    """Run the load balancer. Flags win over the file."""
    config = _config(file, Flags(**given))  # type: ignore[arg-type]  # click hands over what the options above declare
    logs.set_up(config.global_.log_level, config.global_.log_format)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # before any thread: they are for sigwait alone
    balancer = LoadBalancer(config)
    balancer.start()
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not look at it again, with many backends for 100 ms
    try:
        signal.sigwait(STOP_SIGNALS)
        drain_or_second_signal(balancer)
    finally:
        balancer.close()


def drain_or_second_signal(balancer: LoadBalancer) -> None:
    """Drain up to drain_timeout; a second signal ends that at once."""
    drained = threading.Event()

    def drain() -> None:
        try:
            balancer.drain()
        finally:
            drained.set()

    threading.Thread(target=drain, name="l4lb-drain", daemon=True).start()
    while not drained.is_set():
        if signal.sigtimedwait(STOP_SIGNALS, 0.05) is not None:
            return
