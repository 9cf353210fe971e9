"""Trouble at random for the backends of a pool, while clients ask: do they keep being answered?

One trouble at a time: a backend is drained; killed and revived, or hung and woken, by commands of yours; a network is
banned. The seed repeats the choices. Everything is put back, whatever happens, Ctrl-C included.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import click
import common
from common import Failed, Interrupted, Stop, say

from l4lb import AdminState, Client, L4lbError
from l4lb.remote import RemotePool

PUT_BACK_TRIES = 5
BAN_OUTLIVES_S = 60.0  # a ban ends by itself, should nobody be left to remove it

# ---- clients ----


@dataclass(frozen=True)
class Request:
    """What a client sends to `host` and `port`, and what must be in the answer; empty: any byte."""

    host: str
    port: int
    send: bytes
    expect: bytes
    within_s: float

    def problem(self) -> str:
        """Ask once. Empty, or what went wrong."""
        try:
            with socket.create_connection((self.host, self.port), timeout=self.within_s) as sock:
                sock.sendall(self.send)
                return self._read(sock, time.monotonic() + self.within_s)
        except TimeoutError:
            return f"no answer within {self.within_s:g} s"
        except OSError as error:
            return (error.strerror or str(error)).lower()

    def _read(self, sock: socket.socket, until: float) -> str:
        answer = b""
        while not answer or self.expect not in answer:
            sock.settimeout(max(0.001, until - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                return "another answer than expected" if answer else "the end, without an answer"
            answer += data
        return ""


class Clients:
    """Threads that ask one request after the other, from `start` on until `stop`. Counts what became of them."""

    def __init__(self, request: Request, count: int, pause_s: float) -> None:
        self._request = request
        self._pause_s = pause_s
        self._changed = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        self.asked = 0
        self.problems: Counter[str] = Counter()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(self._pause_s):
            problem = self._request.problem()
            with self._changed:
                self.asked += 1
                if problem:
                    self.problems[problem] += 1

    def ask_once(self) -> str:
        """Without counting. Empty, or what went wrong."""
        return self._request.problem()

    @property
    def failed(self) -> int:
        with self._changed:
            return self.problems.total()


# ---- troubles ----


@dataclass(frozen=True)
class Trouble:
    """`begin` and `end` raise Failed or L4lbError; `end` is tried again, and also when `begin` has failed."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    backend: str = ""  # empty: it is none of a backend


Kind = Callable[[str], Trouble]  # of a backend's id


def drains(pool: RemotePool) -> Kind:
    def make(backend: str) -> Trouble:
        one = pool[backend]
        before = AdminState(one.status["admin_state"])
        return Trouble("drain", one.drain, lambda: one.set(admin_state=before), backend)

    return make


def commands(name: str, pool: RemotePool, begin: Sequence[str], end: Sequence[str], timeout_s: float) -> Kind:
    def make(backend: str) -> Trouble:
        address = pool[backend].address
        first, second = (common.filled(command, pool.name, address, backend) for command in (begin, end))
        return Trouble(
            name, lambda: common.output_of(first, timeout_s), lambda: common.output_of(second, timeout_s), backend
        )

    return make


def bans(client: Client, network: str, lasts_s: float) -> Kind:
    def remove() -> None:
        if client.bans.list(network):
            client.bans.remove(network)

    def make(backend: str) -> Trouble:
        for_s = 2 * lasts_s + BAN_OUTLIVES_S
        return Trouble(f"ban of {network}", lambda: client.bans.add(network, for_s=for_s, reason="chaos"), remove)

    return make


@dataclass
class Happened:
    """One trouble, and what the clients noticed from its beginning until its backend was back."""

    text: str
    after_s: float
    lasted_s: float = 0.0
    asked: int = 0
    failed: int = 0

    def __str__(self) -> str:
        noticed = f"{self.failed} of {self.asked} requests failed"
        return f"{self.after_s:6.1f} s  {self.text} for {self.lasted_s:.1f} s: {noticed}"


@dataclass
class Chaos:
    """Makes trouble until `run` returns. `wrong`: what could not be done or put back."""

    pool: RemotePool
    kinds: Sequence[Kind]
    clients: Clients
    draw: random.Random
    stop: Stop
    min_usable: int
    lasts_s: float
    back_timeout_s: float
    happened: list[Happened] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        begun, backends = time.monotonic(), sorted(self.pool)
        while (after_s := time.monotonic() - begun) < seconds and not self.wrong:
            kind, backend = self.draw.choice(self.kinds), self.draw.choice(backends)
            pause_s, lasts_s = (self.lasts_s * self.draw.uniform(0.5, 1.5) for _ in range(2))
            self.stop.sleep(pause_s)
            trouble = kind(backend)
            if not trouble.backend or len(common.usable(self.pool) - {backend}) >= self.min_usable:
                self._make(trouble, lasts_s, after_s)

    def _make(self, trouble: Trouble, lasts_s: float, after_s: float) -> None:
        what = Happened(f"{trouble.name} {trouble.backend}".strip(), after_s)
        asked, failed, began = self.clients.asked, self.clients.failed, time.monotonic()
        was_usable = trouble.backend in common.usable(self.pool)
        self.happened.append(what)
        say(what.text)
        try:
            trouble.begin()
            self.stop.sleep(lasts_s)
        except (Failed, L4lbError) as error:
            self.wrong.append(f"{what.text}: {error}")
        finally:
            self._put_back(trouble, was_usable)
            what.lasted_s = time.monotonic() - began
            what.asked, what.failed = self.clients.asked - asked, self.clients.failed - failed

    def _put_back(self, trouble: Trouble, was_usable: bool) -> None:
        """Ctrl-C does not end this."""
        for tries in range(1, PUT_BACK_TRIES + 1):
            try:
                trouble.end()
                break
            except (Failed, L4lbError) as error:
                if tries == PUT_BACK_TRIES:
                    self.wrong.append(f"{trouble.name} {trouble.backend} is not put back: {error}")
                    return
                time.sleep(min(1.0, self.back_timeout_s / PUT_BACK_TRIES))
        until = time.monotonic() + self.back_timeout_s
        while was_usable and not self._is_usable(trouble.backend):
            if time.monotonic() > until:
                self.wrong.append(f"{trouble.backend} is not usable {self.back_timeout_s:g} s after its {trouble.name}")
                return
            time.sleep(common.TICK_S)

    def _is_usable(self, backend: str) -> bool:
        try:
            return backend in common.usable(self.pool)
        except L4lbError:  # such as while it is upgraded
            return False


@contextlib.contextmanager
def warnings_of(client: Client, pool: str) -> Iterator[Counter[str]]:
    """What the instance itself reports of the pool meanwhile, by kind."""
    kinds: Counter[str] = Counter()

    def count() -> None:
        with contextlib.suppress(L4lbError):
            for event in events:
                kinds[event.kind] += 1

    with client.events(level="warning", pool=pool) as events:
        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        yield kinds
    thread.join()


# ---- the program ----


def address_of(client: Client, pool: str, target: str | None) -> tuple[str, int]:
    """Where clients ask: `target`, or the first listener that sends clients to the pool."""
    given = [target] if target else []
    for listener in client.listeners.values():
        status = listener.status
        if status["pool"] == pool and status["protocol"] == "tcp":
            given += [address for address in status["addresses"] if not address.startswith("unix:")]
    if not given:
        raise Failed(f'no TCP listener sends clients to pool "{pool}": expected --target HOST:PORT')
    host, _, port = given[0].rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f'"{given[0]}": expected HOST:PORT', param_hint="--target")
    return {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "127.0.0.1"}.get(host, host.strip("[]")), int(port)


Option = tuple[str, str | None]  # and what was given for it


def by_commands(name: str, pool: RemotePool, begin: Option, end: Option, timeout_s: float) -> list[Kind]:
    """None of it without the two commands."""
    if begin[1] is None and end[1] is None:
        return []
    if begin[1] is None or end[1] is None:
        raise click.UsageError(f"{begin[0]} and {end[0]}: expected both or none")
    return [commands(name, pool, common.words(begin[0], begin[1]), common.words(end[0], end[1]), timeout_s)]


def text_of(text: str) -> bytes:
    r"""With \r, \n and the like as in Python."""
    try:
        return text.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


def report(chaos: Chaos, warnings: Counter[str], seed: int, budget: float) -> str:
    """Print it. Returns what was not as it should be; empty: nothing."""
    clients = chaos.clients
    rate = clients.failed / max(1, clients.asked)
    say(f"seed {seed}, {len(chaos.happened)} troubles:")
    for one in chaos.happened:
        say(f"  {one}")
    say(f"requests: {clients.asked}, failed: {clients.failed} ({rate:.2%}), budget: {budget:.2%}")
    for what, counts in (("problems", clients.problems), ("warnings of the instance", warnings)):
        if counts:
            say(f"{what}: {', '.join(f'{kind} {count}' for kind, count in counts.most_common())}")
    wrong = list(chaos.wrong)
    if rate > budget:
        wrong.append(f"{rate:.2%} of the requests failed, more than the budget of {budget:.2%}")
    if not clients.asked:
        wrong.append("no request was made")
    return "; ".join(wrong)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pool")
@common.duration("--for", "5m", "How long.", "seconds")
@click.option("--seed", type=int, help="Of the choices; by default another one each time.")
@click.option(
    "--budget", type=click.FloatRange(0, 1), default=0.001, show_default=True, metavar="SHARE",
    help="Of the requests that may fail.",
)  # fmt: skip
@common.duration("--lasts", "10s", "How long a trouble lasts, and the pause before it; half to one and a half of it.")
@click.option("--min-usable", type=click.IntRange(0), default=1, show_default=True, help="Leave so many usable.")
@click.option("--no-drain", is_flag=True, help="No drains.")
@click.option("--kill", metavar="COMMAND", help="Ends the backend at {address} ({host}, {port}, {id}).")
@click.option("--revive", metavar="COMMAND", help="Starts it again.")
@click.option("--hang", metavar="COMMAND", help="Stops it, such as with kill -STOP.")
@click.option("--wake", metavar="COMMAND", help="Lets it go on.")
@click.option("--ban", multiple=True, metavar="CIDR", help="A network to ban; not that of this host. Repeatable.")
@common.duration("--back-timeout", "60s", "How soon after its trouble a backend must be usable again.")
@click.option("--target", metavar="HOST:PORT", help="Where clients ask [a listener of the pool].")
@click.option("--send", default=r"GET / HTTP/1.0\r\n\r\n", show_default=True, help="What they send.")
@click.option("--expect", default="", help="What must be in the answer [any byte].")
@common.duration("--within", "5s", "How soon the answer must come.")
@click.option("--clients", type=click.IntRange(1), default=4, show_default=True, help="How many at once.")
@common.duration("--pause", "50ms", "Between two requests of one.")
@common.admin_options
def main(
    pool: str,
    seconds: float,
    seed: int | None,
    budget: float,
    lasts: float,
    min_usable: int,
    no_drain: bool,
    kill: str | None,
    revive: str | None,
    hang: str | None,
    wake: str | None,
    ban: tuple[str, ...],
    back_timeout: float,
    target: str | None,
    send: str,
    expect: str,
    within: float,
    clients: int,
    pause: float,
    admin: str,
    token_file: str | None,
) -> None:
    stop, seed = Stop(), random.randrange(1_000_000) if seed is None else seed
    with common.connected(admin, token_file) as client:
        there = client.pools[pool]
        kinds = [] if no_drain else [drains(there)]
        kinds += by_commands("kill", there, ("--kill", kill), ("--revive", revive), back_timeout)
        kinds += by_commands("hang", there, ("--hang", hang), ("--wake", wake), back_timeout)
        kinds += [bans(client, network, lasts) for network in ban]
        if not kinds:
            raise click.UsageError("--no-drain: expected another trouble: --kill, --hang or --ban")
        request = Request(*address_of(client, pool, target), text_of(send), text_of(expect), within)
        chaos = Chaos(
            there, kinds, Clients(request, clients, pause), random.Random(seed), stop, min_usable, lasts, back_timeout
        )
        with warnings_of(client, pool) as warnings:
            run(chaos, seconds)
        wrong = report(chaos, warnings, seed, budget)
    if wrong:
        raise Failed(wrong)
    if stop.asked:
        raise Interrupted("everything is put back")


def run(chaos: Chaos, seconds: float) -> None:
    """Clients first: without trouble all must be well."""
    if problem := chaos.clients.ask_once():
        raise Failed(f"already before any trouble: {problem}")
    chaos.clients.start()
    try:
        with contextlib.suppress(Interrupted):
            chaos.run(seconds)
    except L4lbError as error:
        chaos.wrong.append(str(error))
    finally:
        chaos.clients.stop()


if __name__ == "__main__":
    common.run(main)
