"""The terminal, by curses of the standard library: styles, keys, size, and giving it back as it was.

UI thread only. Whatever happens while it is open, `opened` restores it.
"""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import select
import sys
from collections.abc import Iterator, Sequence

import click

from l4lb.cli.shared.tables import coloured
from l4lb.cli.top.state.cells import Line, width_of

_COLOURS = {
    "red": curses.COLOR_RED,
    "green": curses.COLOR_GREEN,
    "yellow": curses.COLOR_YELLOW,
    "magenta": curses.COLOR_MAGENTA,
    "cyan": curses.COLOR_CYAN,
}
_ATTRIBUTES = {
    "bold": curses.A_BOLD,
    "dim": curses.A_DIM,
    "reverse": curses.A_REVERSE,
    "underline": curses.A_UNDERLINE,
}
_KEYS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pgup",
    curses.KEY_NPAGE: "pgdn",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_BTAB: "btab",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_DC: "backspace",
    curses.KEY_ENTER: "enter",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\b": "backspace",
}
_ESCAPE_MS = 50  # how long the rest of a key's sequence may take
# For terminals whose character set is not UTF-8.
_ASCII = str.maketrans("▲▼▾▸…↑↓▁▂▃▄▅▆▇█", "^v->~^v__.-=+*#")
# Where descriptions of terminals are on systems other than the one that this Python was built for.
_DESCRIPTIONS = "/etc/terminfo:/lib/terminfo:/usr/share/terminfo:/usr/lib/terminfo"
_LIKE_MOST = "xterm-256color"  # what unknown terminals of today understand


class Terminal:
    """Use `opened`."""

    def __init__(self) -> None:
        self._window = curses.initscr()
        self._attributes: dict[str, int] = {"": curses.A_NORMAL}
        self._pairs: dict[str, int] = {}
        self._utf8 = "utf" in locale.nl_langinfo(locale.CODESET).lower()
        self._prepare()

    def _prepare(self) -> None:
        """Keys come one by one, those that end programs too: they are told apart by whoever reads them."""
        curses.noecho()
        curses.raw()
        curses.nonl()
        curses.set_escdelay(_ESCAPE_MS)
        self._window.keypad(True)
        self._window.nodelay(True)
        with contextlib.suppress(curses.error):  # not all can hide it
            curses.curs_set(0)
        with contextlib.suppress(curses.error):  # nor have colours
            self._prepare_colours()

    def _prepare_colours(self) -> None:
        """On the terminal's own background, be it light or dark."""
        if not coloured():
            return
        curses.start_color()
        curses.use_default_colors()
        for number, (name, colour) in enumerate(_COLOURS.items(), 1):
            curses.init_pair(number, colour, -1)
            self._pairs[name] = curses.color_pair(number)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        height, width = self._window.getmaxyx()
        return width, height

    def adopt_size(self) -> None:
        """After SIGWINCH."""
        with contextlib.suppress(OSError, curses.error):  # the terminal is gone, or has no size
            size = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1)
            curses.resizeterm(max(size.lines, 1), max(size.columns, 1))
        self.redraw()

    def redraw(self) -> None:
        """What other programs wrote on it goes away with the next `draw`."""
        self._window.clear()

    def draw(self, lines: Sequence[Line]) -> None:
        """Curses sends what has changed."""
        self._window.erase()
        for y, line in enumerate(lines):
            x = 0
            for text, style in line:
                shown = text if self._utf8 else text.translate(_ASCII).encode("ascii", "replace").decode()
                with contextlib.suppress(curses.error):  # the last column of the last line, where no cursor can stand
                    self._window.addstr(y, x, shown, self._attribute(style))
                x += width_of(text)
        self._window.refresh()

    def _attribute(self, style: str) -> int:
        if style not in self._attributes:
            found = 0
            for word in style.split():
                found |= _ATTRIBUTES.get(word, 0) | self._pairs.get(word, 0)
            self._attributes[style] = found
        return self._attributes[style]

    def pressed(self) -> Iterator[str]:
        """Those that were pressed: characters, names as of `_KEYS`, ^C. EOFError once the terminal is gone."""
        found = False
        while True:
            try:
                key = self._window.get_wch()
            except curses.error:  # no more for now
                break
            found = True
            if name := _named(key):
                yield name
        if not found:
            _require_terminal()

    def leave(self) -> None:
        """Give the terminal back."""
        with contextlib.suppress(curses.error):
            curses.endwin()

    def enter(self) -> None:
        """Take it again after `leave`."""
        self._prepare()
        self.adopt_size()


def _named(key: str | int) -> str:
    if key in _KEYS:
        return _KEYS[key]
    if isinstance(key, int):
        return ""
    return key if key.isprintable() else f"^{chr(ord(key) + 64)}" if ord(key) < 32 else ""


def _require_terminal() -> None:
    """A terminal that is gone can always be read, and has nothing."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0)):
        raise EOFError


def _describe() -> None:
    """Find a description of the terminal, or of what most are like. click.ClickException when it cannot be drawn on."""
    known = os.environ.get("TERM", "")
    for name, places in ((known, None), (known, _DESCRIPTIONS), (_LIKE_MOST, None), (_LIKE_MOST, _DESCRIPTIONS)):
        if not name:
            continue
        if places is not None:
            os.environ["TERMINFO_DIRS"] = places
        os.environ["TERM"] = name
        with contextlib.suppress(curses.error):
            curses.setupterm(name)
            break
    else:
        raise click.ClickException(f'no description of the terminal "{known}" (TERM) is installed')
    if not curses.tigetstr("cup"):
        raise click.ClickException(f'the terminal "{known}" (TERM) cannot move its cursor; see `l4lb status --watch`')


@contextlib.contextmanager
def opened() -> Iterator[Terminal]:
    for name in ("COLUMNS", "LINES"):  # if exported, curses would use them for good, whatever the terminal's size
        os.environ.pop(name, None)
    with contextlib.suppress(locale.Error):  # an unknown one: as C
        locale.setlocale(locale.LC_ALL, "")
    _describe()
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.leave()
