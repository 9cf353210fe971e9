"""``l4lb serve``: run until a signal to stop. The main thread waits for signals; everything else runs on other
threads."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import click
from click.core import ParameterSource

from l4lb import logs
from l4lb.balancer import LoadBalancer
from l4lb.config import Config, Flags, from_flags, load
from l4lb.config.options.policies import policy_names
from l4lb.control.fleet.place import is_url, parse_node
from l4lb.control.fleet.reading import Origin, place_of
from l4lb.control.process.host import Host
from l4lb.control.process.inheritance import Inheritance, receive_inheritance
from l4lb.control.process.restart import is_trial
from l4lb.control.process.upgrade import TAKEOVER_FD
from l4lb.control.state.events import Event
from l4lb.engine.tcp_migration import FORMAT
from l4lb.errors import ConfigError, EngineError, L4lbError, Problem
from l4lb.net.handover import Channel
from l4lb.net.limits import keep_address_space
from l4lb.net.privileges import lent_to_programs
from l4lb.net.stored import Stored
from l4lb.net.systemd.sd_notify import Notifier, for_successor
from l4lb.net.systemd.service_manager import kept_before
from l4lb.net.threads import started

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LOOK_AGAIN_S = 0.05


def _origin(file: str | None, node: str | None, flags: Flags) -> Origin | None:
    """None: the configuration is not that of a fleet."""
    if file is None or not is_url(file):
        source = click.get_current_context().get_parameter_source("node")
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError("--node goes with a configuration in etcd (-c etcd://...)")
        return None
    try:
        return Origin(place_of(file), parse_node(node or socket.gethostname()), flags)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--node") from None


def _config(file: str | None, flags: Flags) -> Config:
    if file is not None:
        return load(Path(file), flags)
    if not flags.any_routing:
        raise click.UsageError("give a configuration (-c lb.toml) or --listen ADDR and --backend ADDR")
    return from_flags(flags)


def _policies(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion."""
    return [name for name in policy_names() if name.startswith(incomplete)]


@click.command()
@click.option(
    "-c", "--config", "file", type=click.Path(readable=False), metavar="FILE|URL",
    help="Configuration: a TOML file, or that of a fleet (etcd://HOST/PREFIX).",
)  # fmt: skip
@click.option(
    "--node", envvar="L4LB_NODE", metavar="NAME", help="This node in its fleet (env L4LB_NODE; the host name)."
)
@click.option("--listen", "listen", multiple=True, metavar="ADDR", help="Listen here; may be given again.")
@click.option("--backend", "backends", multiple=True, metavar="ADDR[,weight=N]", help="A backend; may be given again.")
@click.option(
    "--policy", metavar="P", shell_complete=_policies, help="How a backend is chosen, e.g. least_sessions or maglev."
)
@click.option("--protocol", metavar="tcp|udp", help="Protocol of --listen.")
@click.option("--workers", metavar="N", help="Worker threads, or auto.")
@click.option("--admin", metavar="ADDR", help="Address of the admin API, or off.")
@click.option("--log-level", metavar="L", help="debug, info, warning or error.")
def serve(file: str | None, node: str | None, **given: object) -> None:
    """Run the load balancer. Flags win over the file. SIGHUP reloads the file, SIGUSR1 opens log files again, SIGUSR2
    upgrades."""
    flags = Flags(**given)  # type: ignore[arg-type]  # click hands over what the options above declare
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # before any thread: they are for sigwait alone
    channel = _predecessor()
    try:
        origin = _origin(file, node, flags)
        config = origin.load_first() if origin else _config(file, flags)
        if is_trial(FORMAT):
            return
        _set_up_log(config)
        host = Host.of_process(config)
        host.origin = origin
        host.started = _keep_what_exists
        inheritance = _inherited(channel) if channel else None
        again = (lambda: load(Path(file), flags)) if file and not origin else None
        _make_replaceable(host)
        balancer, stop = _start(LoadBalancer(config, load=again, inheritance=inheritance, host=host))
    except (L4lbError, click.ClickException) as error:
        _report_failure(channel, error)
        raise
    try:
        if (stop or _handle_signals(balancer)) and not _kept_for_restart(balancer):
            drain_or_second_signal(balancer)
    finally:
        balancer.close()


def _keep_what_exists() -> None:
    """It stays: with many backends each collection would take 100 ms more."""
    gc.collect()
    gc.freeze()


def _set_up_log(config: Config) -> None:
    try:
        logs.set_up(config.global_)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([config.problem(("global", "log"), f'"{config.global_.log}": {reason}')]) from error


def _log_as(config: Config) -> None:
    """Call this after a reload. When the new target is not available, the log stays where it was, and says so."""
    try:
        _set_up_log(config)
    except ConfigError as error:
        logs.logger.error("log not changed", extra={"fields": {"reason": str(error)}})


def _reopen_logs(balancer: LoadBalancer) -> None:
    logs.reopen()
    balancer.reopen_logs()


def _predecessor() -> Channel | None:
    """The channel to the process that this one is to replace, if there is one; or what the one before left with the
    service manager."""
    fd = os.environ.pop(TAKEOVER_FD, "")
    if not fd:
        return _kept()
    try:
        return Channel.of_fd(int(fd))
    except (OSError, ValueError, OverflowError) as error:  # EBADF, ENOTSOCK; no number
        reason = error.strerror if isinstance(error, OSError) else "expected the number of a socket"
        raise ConfigError([Problem(TAKEOVER_FD, f'"{fd}": {reason}; only an upgrade sets it')]) from None


def _kept() -> Channel | None:
    try:
        return kept_before(Notifier.from_environment())
    except OSError as error:
        raise ConfigError([Problem("LISTEN_FDS", f"what systemd kept cannot be read: {error.strerror}")]) from None


def _inherited(channel: Channel) -> Inheritance:
    try:
        found = receive_inheritance(channel)
        if isinstance(channel, Stored):
            found.leave_out_removed()
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise EngineError(f"nothing can be taken over from the process before this one: {reason}") from error


def _report_failure(channel: Channel | None, error: Exception) -> None:
    if channel is not None:
        with contextlib.suppress(OSError):  # it is gone
            channel.send({"kind": "failed", "reason": str(error)})
        channel.close()


def _make_replaceable(host: Host) -> None:
    """Set how another process replaces this one, and what ends it when the admin API drains it."""
    main = threading.main_thread().ident
    assert main is not None
    successor = host.successor
    host.drain_asked = lambda: signal.pthread_kill(main, signal.SIGTERM)
    if os.getpid() == 1:
        successor.reason = "process 1 of a container cannot leave its place to another: start a new container"
    else:
        successor.command = [sys.executable, *sys.orig_argv[1:]]
    successor.environment = lambda: for_successor(os.environ)
    successor.replaced = lambda pid: signal.pthread_kill(main, signal.SIGTERM)
    if host.identity is not None:
        successor.lending = lent_to_programs


def _start(balancer: LoadBalancer) -> tuple[LoadBalancer, bool]:
    """Start it. Also returns whether a signal to stop has come already."""
    keep_address_space()
    with _ending_at_second_signal() as stop:
        balancer.start()

    def follow(event: Event) -> None:
        if event.kind == "reloaded":
            _log_as(balancer.plane.state.config)

    balancer.plane.events.subscribe(follow)
    return balancer, stop.is_set()


@contextlib.contextmanager
def _ending_at_second_signal() -> Iterator[threading.Event]:
    """For the start, which may take long. The first signal to stop sets the event, which is obeyed after the start. A
    second one ends the process: there is nothing to clean up, since no client was served yet."""
    over, stop = threading.Event(), threading.Event()

    def listen() -> None:
        # To wait takes memory too. Without any ("can't allocate lock") the start fails and reports it: enough is said.
        with contextlib.suppress(RuntimeError, MemoryError):
            while not over.wait(_LOOK_AGAIN_S / 5):
                if _taken(STOP_SIGNALS) is not None:
                    if stop.is_set():
                        os._exit(0)
                    stop.set()

    listening = started(threading.Thread(target=listen, name="l4lb-signal", daemon=True))
    try:
        yield stop
    finally:
        over.set()
        listening.join()


def _handle_signals(balancer: LoadBalancer) -> bool:
    """Until a signal to stop. The results of reloads and upgrades are in the log."""
    reload, upgrade = BackgroundCall(balancer.reload), BackgroundCall(balancer.upgrade)
    reopen = BackgroundCall(lambda: _reopen_logs(balancer))
    while True:
        match signal.sigwait(SIGNALS):
            case signal.SIGHUP:
                reload.run()
            case signal.SIGUSR1:
                reopen.run()
            case signal.SIGUSR2:
                upgrade.run()
            case _:
                return True


class BackgroundCall:
    """Runs `call` on another thread, so that the main thread still handles a signal to stop. Requests that come while
    it runs lead to one more run."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._wanted = False
        self._running = False

    def run(self) -> None:
        with self._lock:
            self._wanted = True
            if self._running:
                return
            self._running = True
        try:
            started(threading.Thread(target=self._run, name="l4lb-signal", daemon=True))
        except EngineError as error:
            self._running = False
            logs.logger.error("signal not obeyed", extra={"fields": {"reason": str(error)}})

    def _run(self) -> None:
        while self._next():
            try:
                self._call()
            except (L4lbError, CancelledError):
                pass  # its event reports it; or the process ends
            except (RuntimeError, MemoryError) as error:  # such as "can't start new thread"
                logs.logger.error("signal not obeyed", extra={"fields": {"reason": str(error) or "out of memory"}})

    def _next(self) -> bool:
        with self._lock:
            self._running, self._wanted = self._wanted, False
            return self._running


def _kept_for_restart(balancer: LoadBalancer) -> bool:
    try:
        return balancer.run(balancer.plane.keep_for_restart())
    except (L4lbError, CancelledError):  # it has ended by itself
        return False


def drain_or_second_signal(balancer: LoadBalancer) -> None:
    """Drain up to drain_timeout; a second signal ends that at once."""
    drained = threading.Event()
    reopen = BackgroundCall(lambda: _reopen_logs(balancer))

    def drain() -> None:
        with contextlib.suppress(L4lbError, CancelledError):  # it is closed already: a second signal came
            balancer.drain()
        drained.set()

    try:
        started(threading.Thread(target=drain, name="l4lb-drain", daemon=True))
    except EngineError:
        drain()  # a second signal has no effect then
    while not drained.wait(_LOOK_AGAIN_S):
        number = _taken((*STOP_SIGNALS, signal.SIGUSR1))
        if number == signal.SIGUSR1:
            reopen.run()
        elif number is not None:
            return


def _taken(numbers: Sequence[signal.Signals]) -> int | None:
    """Take one of these signals, all of which are blocked, if it has come. sigtimedwait(2) would not do: setresuid(2)
    in a process with threads, or SIGSTOP and SIGCONT, interrupt it (EINTR), and Python 3.11 to 3.13 then return a
    signal that never came when the time is over. sigwait(3) is not interrupted by them, and a pending signal stays
    pending, since only one thread takes signals."""
    pending = signal.sigpending().intersection(numbers)
    return signal.sigwait(pending) if pending else None
