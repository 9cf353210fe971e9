"""``l4lb top``: a running instance, live in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, get_args

import click
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widgets import DataTable, Footer, Static

from l4lb.cli.rates import Key, Rates, spark
from l4lb.cli.shared.connection import admin_options, connected, sessions
from l4lb.cli.shared.texts import HEALTH_COLOUR, age_text, drain_text, place_text, size_text, usage_text
from l4lb.client import Client
from l4lb.errors import AdminError
from l4lb.model.sessions import SourceOrder
from l4lb.remote import RemoteBackend, RemotePool

STATE_STYLE = {"ready": "", "drain": "yellow", "maint": "magenta"}
WIDE = 104  # columns of a terminal from which the tables have a trend
MARGIN = 4  # columns beside a table: padding and a scroll bar
TREND = ("trend", 20)
WEIGHT_MAX = 65535
Row = list[Text]
T = TypeVar("T")


def rate_text(rate: float) -> str:
    return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def bytes_text(rate: float) -> str:
    """Short: no decimals for what has three digits."""
    value, unit = size_text(int(rate)).split(" ")
    return f"{float(value):.0f}{unit[0]}" if len(value) > 4 or unit == "B" else f"{value}{unit[0]}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


class Table(DataTable[Text]):
    """Rows by key; unchanged cells are not drawn again, and the cursor stays on its row.

    `stretches`: the column that takes the remaining width.
    """

    def __init__(self, columns: list[tuple[str, int]], stretches: int, trend: bool = True, **options: Any) -> None:
        super().__init__(cell_padding=0, **options)
        self._wanted = columns
        self._trend = trend
        self._stretches = stretches
        self._shown: dict[Key, Row] = {}
        self._cursor_was: Key = ()
        self.widths: list[int] = []

    def fit(self, width: int) -> None:
        """Lay the columns out for a terminal of that width; call `show` afterwards."""
        wanted = [*self._wanted, TREND] if self._trend and width >= WIDE else self._wanted
        self.widths = [column_width for _, column_width in wanted]
        self.widths[self._stretches] = max(10, width - MARGIN - sum(self.widths) - len(wanted))
        self._cursor_was, self._shown = self.selected or self._cursor_was, {}
        self.clear(columns=True)
        for number, (heading, _) in enumerate(wanted):
            label = heading if number == 0 else heading.rjust(self.widths[number])
            self.add_column(Text(label), width=self.widths[number] + 1, key=str(number))

    def show(self, rows: dict[Key, Row]) -> None:
        if list(rows) != list(self._shown):
            self._rebuild(rows)
        for key, cells in rows.items():
            for number, cell in enumerate(cells):
                if cell != self._shown[key][number]:
                    self.update_cell("\0".join(key), str(number), cell)
        self._shown = rows

    def _rebuild(self, rows: dict[Key, Row]) -> None:
        selected = self.selected or self._cursor_was
        self.clear()
        for key, cells in rows.items():
            self.add_row(*cells, key="\0".join(key))
        self._shown = rows
        if selected in rows:
            self.move_cursor(row=list(rows).index(selected))

    @property
    def selected(self) -> Key:
        """The key of the cursor's row; empty when there is none."""
        keys = list(self._shown)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else ()


def right(text: str, width: int, style: str = "") -> Text:
    return Text(text.rjust(width), style)


BACKENDS = [("pool, backend", 0), ("state", 6), ("health", 8), ("weight", 6), ("sess", 6), ("new/s", 6),
            ("up/s", 6), ("down/s", 6)]  # fmt: skip
LISTENERS = [("listener", 16), ("address", 0), ("pool", 12), ("sess", 6), ("new/s", 6), ("pkt/s", 6)]
SOURCES = [("source", 0), ("listener", 16), ("sess", 6), ("new/s", 6), ("over", 7), ("up", 6), ("down", 6)]
SOURCES_SHOWN = 10


class Top(App[None]):
    """Asks the instance that `connect` finds every `interval` seconds, each time on a new connection: after a restart
    or an upgrade the new process answers."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "l4lb top"
    CSS = """
    #head { height: auto; padding: 0 1; }
    #listeners { height: auto; max-height: 25%; margin-top: 1; padding: 0 1; }
    #backends { height: 1fr; margin-top: 1; padding: 0 1; }
    #sources { height: auto; max-height: 25%; margin-top: 1; padding: 0 1; }
    .lost { opacity: 50%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "set_state('drain')", "Drain"),
        Binding("r", "set_state('ready')", "Ready"),
        Binding("m", "set_state('maint')", "Maint"),
        Binding("plus,equals_sign", "weight(1)", "Weight up", key_display="+"),
        Binding("minus", "weight(-1)", "Weight down", key_display="-"),
        Binding("o", "order", "Order"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, connect: Callable[[], Client], interval: float) -> None:
        super().__init__()
        self._connect = connect
        self._interval = interval
        self._rates = Rates()
        self._status: Mapping[str, Any] | None = None
        self._sources: Sequence[Mapping[str, Any]] = []
        self._order = itertools.cycle(get_args(SourceOrder))
        self._by: SourceOrder = next(self._order)
        self._lost = ""
        self._polling = asyncio.Lock()
        self._changing = asyncio.Lock()

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        listeners = Table(LISTENERS, 1, id="listeners", show_cursor=False)
        listeners.can_focus = False
        yield listeners
        yield Table(BACKENDS, 0, id="backends", cursor_type="row")
        sources = Table(SOURCES, 0, trend=False, id="sources", show_cursor=False)
        sources.can_focus = False
        yield sources
        yield Footer()

    def on_mount(self) -> None:
        # The terminal is restored first; SIGHUP, from a terminal that is gone, ends the process as the kernel does.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)
        self.query_one("#backends").focus()
        self.set_interval(self._interval, self._begin_poll)
        self.call_later(self._begin_poll)

    def on_resize(self, resized: Resize) -> None:
        for table in self.query(Table):
            table.fit(resized.size.width)
        self._show()

    # ---- what is shown ----

    def _begin_poll(self) -> None:
        """Runs beside the handling of keys and exit, which must not wait for an instance that does not answer."""
        self.run_worker(self._poll())

    def _ask_sources(self, client: Client) -> Callable[[], Sequence[Mapping[str, Any]]]:
        return lambda: client.sources(by=self._by, limit=SOURCES_SHOWN)

    async def _poll(self) -> None:
        if self._polling.locked():  # the instance is slow: one request at a time
            return
        async with self._polling:
            try:
                with self._connect() as client:
                    status: Mapping[str, Any] = await _aside(client.status)
                    self._sources = await _aside(self._ask_sources(client))
                self._lost = ""
                self._status = status
                self._rates.feed(status, time.monotonic())
            except AdminError as error:
                self._lost = str(error)
        self._show()

    def _show(self) -> None:
        self.query_one("#head", Static).update(self._head())
        listeners, backends = self.query_one("#listeners", Table), self.query_one("#backends", Table)
        sources = self.query_one("#sources", Table)
        for table in (listeners, backends, sources):
            table.set_class(bool(self._lost), "lost")  # what is shown is out of date
        if self._status is not None and listeners.widths and backends.widths:
            listeners.show(self._listener_rows(self._status, listeners.widths))
            backends.show(self._backend_rows(self._status, backends.widths))
            sources.display = bool(self._sources)
            sources.show(self._source_rows(sources.widths))

    def _head(self) -> Text:
        status = self._status
        lost = Text(f"disconnected: {self._lost}; asking again", "bold red") if self._lost else None
        if status is None:
            return lost or Text("connecting")
        state = drain_text(status["drain"]) or status["state"]
        first = f"l4lb {status['version']}, {state}, process {status['pid']}, up {age_text(status['uptime_s'])}"
        counted = [f"snapshot {status['snapshot_version']}", sessions(status["sessions_active"])]
        second = ", ".join(filter(None, [*counted, usage_text(status["usage"])]))
        lines = [lost or Text(first, "bold"), Text(second), self._sparks()]
        return Text("\n").join(lines)

    def _sparks(self) -> Text:
        width = max(8, (self.size.width - 40) // 3)
        parts = []
        for label, counter, text in (
            ("new", "sessions_total", rate_text),
            ("up", "bytes_up", bytes_text),
            ("down", "bytes_down", bytes_text),
        ):
            history = self._rates.history(("total",), counter)
            now = self._rates.now(("total",), counter)
            parts.append(Text.assemble(f"{label} ", (spark(history, width), "cyan"), f" {text(now)}/s"))
        return Text("  ").join(parts)

    def _trend(self, key: Key, widths: list[int], columns: int) -> Row:
        """The trend, if there is a column for it after the others."""
        if len(widths) == columns:
            return []
        return [right(spark(self._rates.history(key, "sessions_total"), TREND[1]), TREND[1], "cyan")]

    def _listener_rows(self, status: Mapping[str, Any], widths: list[int]) -> dict[Key, Row]:
        rows: dict[Key, Row] = {}
        for one in status["listeners"]:
            key: Key = ("listener", one["name"])
            closed = drain_text(one["drain"]) or ("refuses clients" if one["refusing"] else "")
            address = cut(closed or place_text(one), widths[1])
            rows[key] = [
                Text(cut(one["name"], widths[0])),
                right(address, widths[1], "yellow" if closed else ""),
                right(cut(one["pool"], widths[2]), widths[2]),
                right(str(one["sessions_active"]), widths[3]),
                right(rate_text(self._rates.now(key, "sessions_total")), widths[4]),
                right(self._packets(key), widths[5]),
                *self._trend(key, widths, len(LISTENERS)),
            ]
        return rows

    def _packets(self, key: Key) -> str:
        """Of both directions; of listeners that the kernel forwards."""
        if not self._rates.knows(key, "packets_up"):
            return "-"
        return rate_text(sum(self._rates.now(key, f"packets_{one}") for one in ("up", "down")))

    def _backend_rows(self, status: Mapping[str, Any], widths: list[int]) -> dict[Key, Row]:
        rows: dict[Key, Row] = {}
        for pool in status["pools"]:
            key: Key = ("pool", pool["name"])
            usable = f"{pool['usable']}/{len(pool['backends'])} up"
            style = "bold" if pool["usable"] else "bold red"
            name = Text(cut(f"{pool['name']} ({pool['policy']})", widths[0]), style)
            rows[key] = [
                name,
                Text(),
                right(usable, widths[2], style),
                Text(),
                *self._numbers(key, pool, widths, style),
            ]
            for one in pool["backends"]:
                rows["backend", pool["name"], one["id"]] = self._backend_row(pool["name"], one, widths)
        return rows

    def _backend_row(self, pool: str, one: Mapping[str, Any], widths: list[int]) -> Row:
        health = "ejected" if one["ejected"] else one["fleet_health"] or one["health"]
        return [
            Text(cut(f"  {one['id']}", widths[0])),
            right(one["admin_state"], widths[1], STATE_STYLE[one["admin_state"]]),
            right(health, widths[2], HEALTH_COLOUR.get(health, "red")),
            right(str(one["weight"]), widths[3]),
            *self._numbers(("backend", pool, one["id"]), one, widths, ""),
        ]

    def _source_rows(self, widths: list[int]) -> dict[Key, Row]:
        return {
            ("source", one["listener"], one["source"]): [
                Text(cut(one["source"], widths[0])),
                right(cut(one["listener"], widths[1]), widths[1]),
                right(str(one["sessions_active"]), widths[2]),
                right(rate_text(one["session_rate"]), widths[3]),
                right(str(one["limited"]), widths[4], "yellow" if one["limited"] else ""),
                right(bytes_text(one["bytes_up"]), widths[5]),
                right(bytes_text(one["bytes_down"]), widths[6]),
            ]
            for one in self._sources
        }

    def _numbers(self, key: Key, one: Mapping[str, Any], widths: list[int], style: str) -> Row:
        return [
            right(str(one["sessions_active"]), widths[4], style),
            right(rate_text(self._rates.now(key, "sessions_total")), widths[5], style),
            right(bytes_text(self._rates.now(key, "bytes_up")), widths[6], style),
            right(bytes_text(self._rates.now(key, "bytes_down")), widths[7], style),
            *self._trend(key, widths, len(BACKENDS)),
        ]

    # ---- what is changed ----

    def action_order(self) -> None:
        """Of the sources: by sessions, rate, bytes."""
        self._by = next(self._order)
        self.notify(f"sources by {self._by}", timeout=2)
        self._begin_poll()

    def action_set_state(self, state: str) -> None:
        self._change(lambda backend: backend.set(admin_state=state), f"admin state {state}")

    def action_weight(self, by: int) -> None:
        def change(backend: RemoteBackend) -> None:
            backend.set_weight(min(max(backend.weight + by, 0), WEIGHT_MAX))

        self._change(change, "weight " + ("up" if by > 0 else "down"))

    def _change(self, change: Callable[[RemoteBackend], None], what: str) -> None:
        """Change the backend at the cursor."""
        match self.query_one("#backends", Table).selected:
            case ("backend", pool, id_):
                self.run_worker(self._make(pool, id_, change, what))
            case _:
                self.notify("move to a backend first", severity="warning", timeout=3)

    async def _make(self, pool: str, id_: str, change: Callable[[RemoteBackend], None], what: str) -> None:
        """One after the other, so that each of several quick key presses counts."""
        async with self._changing:
            try:
                with self._connect() as client:
                    await _aside(lambda: change(RemotePool(client, pool).find(id_)))
                self.notify(f"{pool}: {id_}: {what}", timeout=2)
            except AdminError as error:
                self.notify(str(error), severity="error")
        await self._poll()


async def _aside(call: Callable[[], T]) -> T:
    """Run `call` on a new thread. Unlike the threads of `asyncio.to_thread`, it does not delay the end of the process
    when an instance does not answer."""
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            result, error = call(), None
        except Exception as raised:
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, future, result, error)

    threading.Thread(target=run, daemon=True).start()
    found: T = await future
    return found


def _resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.cancelled():
        return
    future.set_exception(error) if error is not None else future.set_result(result)


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="SECONDS")
@admin_options
def top(interval: float, admin: str | None, token_file: str | None) -> int:
    """Watch a running instance: listeners, pools, backends, sources. Keys change admin states and weights."""
    connected(admin, token_file).close()  # report a wrong address or token file before using the screen
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("top needs a terminal; `l4lb status` prints the same once")
    for name in (
        "COLUMNS",
        "LINES",
    ):  # if exported, textual would use them for good, whatever the terminal's size
        os.environ.pop(name, None)
    app = Top(lambda: connected(admin, token_file), interval)
    app.run()
    return app.return_code or 0
