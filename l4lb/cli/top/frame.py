"""The whole screen as lines, from what was seen and where the user is. Pure, but for telling `Ui` how many rows there
are room for."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence

from l4lb.cli.shared.tables import printable
from l4lb.cli.top.head import head
from l4lb.cli.top.helping import help_lines
from l4lb.cli.top.keys import available
from l4lb.cli.top.panes.details import details, title
from l4lb.cli.top.panes.sessions import SESSIONS, asked_for
from l4lb.cli.top.state.cells import Line, clipped, fitted, text_of, width_of
from l4lb.cli.top.state.columns import Fitting, fit, headings, row
from l4lb.cli.top.state.seen import SLOW_S
from l4lb.cli.top.ui import PANES, Ui
from l4lb.model.sessions import LIMIT_MAX

_QUESTION_MAX = 6  # lines
_MESSAGE_MAX = 4
_TROUBLE_MAX = 2
_SELECTED = "reverse"
_WHAT = {"pools": "backends"}  # what the list of that name counts


def frame(ui: Ui, width: int, height: int) -> list[Line]:
    """Exactly `height` lines of at most `width` columns."""
    bottom = _bottom(ui, width)
    top = _top(ui, width, height)
    room = height - len(top) - len(bottom)
    body = _body(ui, width, max(room, 0))
    if ui.seen.lost:
        body = [[(text, "dim") for text, _ in line] for line in body]
    body += [[] for _ in range(room - len(body))]
    lines = [*top, *body, *bottom][-height:] if room < 0 else [*top, *body, *bottom]
    return [clipped(line, width) for line in lines]


# ---- above ----


def _top(ui: Ui, width: int, height: int) -> list[Line]:
    """Less of it the lower the screen is."""
    lines = [*_trouble(ui, width), *head(ui.seen, ui.read_only, width)]
    lines = lines[: 4 if height >= 18 else 2 if height >= 12 else 1]
    if height >= 9:
        lines.append(_tabs(ui, width))
    return lines


def _trouble(ui: Ui, width: int) -> list[Line]:
    """Why what is shown may be out of date, in two lines at most."""
    lines = textwrap.wrap(_what_is_wrong(ui), max(width, 10), max_lines=_TROUBLE_MAX, placeholder="…")
    return [[(line, "bold red")] for line in lines]


def _what_is_wrong(ui: Ui) -> str:
    seen = ui.seen
    if seen.lost_since is not None:
        since = time.strftime("%H:%M:%S", time.localtime(seen.lost_since))
        return f"{seen.lost_how} since {since}, retrying: {printable(seen.lost)}"
    waited = time.monotonic() - seen.asked_at if seen.asked_at is not None else 0.0
    return f"no answer for {waited:.0f} s; waiting" if waited > SLOW_S else ""


def _tabs(ui: Ui, width: int) -> Line:
    """The names of all lists, or of this one where there is no room."""
    whole: Line = []
    for number, pane in enumerate(PANES, 1):
        here = pane is ui.pane
        whole += [(f" {number} {pane.name} ", _SELECTED if here else ""), (" ", "")]
    if width_of(text_of(whole)) - 1 <= width:
        return whole
    number = PANES.index(ui.pane) + 1
    return [(f" {number} {ui.pane.name} ", _SELECTED), (f" 1 to {len(PANES)}: others", "")]


# ---- below ----


def _bottom(ui: Ui, width: int) -> list[Line]:
    if ui.question is not None:
        said = [(ui.question.question, "bold"), (ui.question.warning, "bold red")]
        wrapped = [[(line, style)] for text, style in said for line in textwrap.wrap(text, max(width, 10))]
        return [
            *wrapped[:_QUESTION_MAX],
            [("y", "bold reverse"), (" do it   ", ""), ("any other key", "bold"), (" no", "")],
        ]
    if ui.prompt is not None:
        shown = width - width_of(ui.prompt.label) - 1
        text = ui.prompt.text[-shown:] if shown > 0 else ""
        return [[(ui.prompt.label, "bold"), (text, ""), (" ", _SELECTED)]]
    text, style = ui.message
    lines = textwrap.wrap(printable(text), max(width, 10))[:_MESSAGE_MAX]
    return [[(line, style or "bold")] for line in lines] if lines else [_keys(ui, width)]


def _keys(ui: Ui, width: int) -> Line:
    """As many as there is room for."""
    shown = {one.shown: one.label for one in available(ui.pane.name, ui.read_only) if one.label}
    if ui.mode != "list":
        shown["q"] = "Back"
    line: Line = []
    for key, label in shown.items():
        more: Line = [*([("  ", "")] if line else []), (key, "bold"), (f" {label}", "")]
        if width_of(text_of([*line, *more])) > width:
            break
        line += more
    return line


# ---- between ----


def _body(ui: Ui, width: int, room: int) -> list[Line]:
    ui.height = max(room, 1)
    if ui.mode == "help":
        return _scrolled(ui, help_lines(ui.pane.name, ui.read_only, width), room)
    if ui.mode == "details" and ui.detailed is not None:
        lines = details(ui.seen, ui.detailed, width)
        gone: Line = [(" gone; this is what was known last", "yellow")] if ui.gone else []
        return [[(title(ui.detailed), "bold reverse"), *gone], *_scrolled(ui, lines, room - 1)][:room]
    return _list(ui, width, room)


def _scrolled(ui: Ui, lines: Sequence[Line], room: int) -> list[Line]:
    """Those from `ui.scrolled` on, which stays in its bounds; says when there is more."""
    ui.scrolled = max(0, min(ui.scrolled, len(lines) - room))
    shown = list(lines[ui.scrolled : ui.scrolled + max(room, 0)])
    left = len(lines) - ui.scrolled - len(shown)
    if left and shown:
        shown[-1] = [(f"{left + 1} lines more: ↓", "bold")]
    return shown


def _list(ui: Ui, width: int, room: int) -> list[Line]:
    fitting = fit(ui.columns, width)
    titled, noted = room >= 8, room >= 6 and not any(column.heading == "note" for column, _ in fitting)
    rows = max(room - 1 - titled - noted, 1)
    ui.height = rows
    above = ([_title(ui)] if titled else []) + [headings(fitting, ui.listing.sort, ui.listing.reverse)]
    body = _rows(ui, fitting, width, rows)
    if noted:
        body += [[] for _ in range(rows - len(body))]
        body.append(_note(ui))
    return [*above, *body][:room]


def _title(ui: Ui) -> Line:
    listing = ui.listing
    said = [_count(ui, listing.count) if not ui.words else f"{listing.shown} of {_count(ui, listing.count)}"]
    if listing.words:
        said.append(f"filter: {listing.words}")
    if listing.sort:
        said.append(f"sorted by {listing.sort}")
    if error := ui.seen.errors.get(ui.pane.part, "") or (ui.seen.events_error if ui.pane.name == "events" else ""):
        return [(f"{ui.pane.name}: {error}", "bold red")]
    return [(f"{_WHAT.get(ui.pane.name, ui.pane.name)}: {'; '.join(said)}", "bold")]


def _count(ui: Ui, count: int) -> str:
    """Where the instance has more than it listed, that is said."""
    if ui.pane is not SESSIONS or len(ui.seen.part("sessions")) < ui.wanted.limit:
        return str(count)
    known = ui.seen.status["sessions_active"] if ui.seen.status else 0
    every = f" of {known}" if known > count and not asked_for(ui.listing.words) else ", and perhaps more"
    most = "; no more can be listed" if count >= LIMIT_MAX else ""
    return f"the first {count}{every}{most}"


def _rows(ui: Ui, fitting: Fitting, width: int, rows: int) -> list[Line]:
    listing = ui.listing
    lines = []
    for item in listing.window(rows):
        cells = row(fitting, ui.seen, item)
        if item is listing.selected:
            cells = [(fitted(text_of(cells), width), _SELECTED)]
        lines.append(cells)
    return lines or [[(_why_nothing(ui), "")]]


def _why_nothing(ui: Ui) -> str:
    seen, part = ui.seen, ui.pane.part
    if seen.status is None or (part and part not in seen.parts and not seen.errors.get(part)):
        return "waiting for an answer"
    return "nothing matches the filter; Esc ends it" if ui.listing.words else ui.pane.empty


def _note(ui: Ui) -> Line:
    """Of the selected row."""
    item = ui.listing.selected
    return [(ui.pane.note(ui.seen, item) if item is not None else "", "yellow")]
