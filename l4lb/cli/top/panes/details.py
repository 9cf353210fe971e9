"""All about one item, as lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from l4lb.cli.shared.tables import printable
from l4lb.cli.shared.texts import age_text, backend_note, check_text, counts_text, size_text
from l4lb.cli.top.panes.events import events_of, level_style, level_text, sentence
from l4lb.cli.top.panes.pools import health_word
from l4lb.cli.top.panes.texts import bytes_text, clock_text, rate_text, seconds_text, short_clock_text
from l4lb.cli.top.state.cells import Line, fitted
from l4lb.cli.top.state.columns import Item
from l4lb.cli.top.state.rates import spark
from l4lb.cli.top.state.seen import Seen

LABEL = 12  # columns
_FIELD = 16  # of an item of whose fields nothing more is known
_EVENTS = 20
_CHECKS = 10
_WHAT = {"connect": "connect", "first_byte": "first byte", "session": "session"}

Shape = Mapping[str, Any]


def title(item: Item) -> str:
    """What it is called."""
    kind, *names = item.key
    if kind == "event":
        return f"event: {item.data['event']}"
    return f"{kind} {' / '.join(name for name in names if name)}"


def details(seen: Seen, item: Item, width: int) -> list[Line]:
    """With texts wrapped to `width`."""
    if item.key[0] == "backend":
        return _backend(seen, item, width)
    lines = [line for name, value in item.data.items() if name != "backends" for line in _field(name, value, width)]
    if item.key[0] in ("pool", "listener"):
        lines += _events(events_of(seen, **{item.key[0]: item.key[1]}), width, (item.key[0],))
    return lines


def _field(name: str, value: Any, width: int) -> list[Line]:
    label = name.replace("_", " ")
    if name in ("time", "until", "since", "answered_at") and isinstance(value, int | float):
        return _pair(label, clock_text(value), width, room=_FIELD)
    if name == "level" and isinstance(value, int):
        return _pair(label, level_text(value), width, level_style(value), _FIELD)
    return _pair(label, _value_text(name, value), width, room=_FIELD)


def _value_text(name: str, value: Any) -> str:
    if value is None or value == "" or value == {} or value == []:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value_text(str(key), one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_value_text("", one) for one in value)
    if name.startswith("bytes") and isinstance(value, int):
        return size_text(value)
    return age_text(value) if name.endswith("_s") and isinstance(value, float) else str(value)


def _pair(label: str, text: str, width: int, style: str = "", room: int = LABEL) -> list[Line]:
    """A label, in so much room, and its text, on as many lines as that needs."""
    parts = textwrap.wrap(printable(text), max(width - room - 1, 10), break_on_hyphens=False) or ["-"]
    labels = [label, *([""] * (len(parts) - 1))]
    return [[(f"{fitted(one, room)} ", "bold"), (part, style)] for one, part in zip(labels, parts, strict=True)]


def _block(heading: str, lines: Sequence[Line]) -> list[Line]:
    return [[], [(heading, "bold underline")], *lines] if lines else []


# ---- of a backend ----


def _backend(seen: Seen, item: Item, width: int) -> list[Line]:
    _, pool, id_ = item.key
    one = seen.backend(pool, id_) or item.data
    return [
        *_pair("why", backend_note(one) or "gets new sessions", width, "" if one["usable"] else "red"),
        *_pair("health", f"{health_word(one)} since {clock_text(one['health_since'])}", width),
        *_pair("admin state", one["admin_state"], width),
        *_pair("address", _address(one), width),
        *_pair("weight", _weight(one), width),
        *_pair("sessions", _sessions(one), width),
        *_traffic(seen, item, one, width),
        *_others(one, width),
        *_block("latency, of the latest minute", _latency(one.get("latency") or {}, width)),
        *_block("errors", _errors(one, width)),
        *_block("checks, the newest first", _checks(one, width)),
        *_block("health", _history(one)),
        *_events(events_of(seen, pool=pool, backend=id_), width, ("pool", "backend")),
    ]


def _address(one: Shape) -> str:
    resolved = (one["resolved"] or {}).get("address")
    return f"{one['address']}, now {resolved}" if resolved else str(one["address"])


def _weight(one: Shape) -> str:
    effective = one["effective_weight"]
    now = "" if effective == one["weight"] else f", now {effective:.2g}"
    return f"{one['weight']}{now}; priority {one['priority']}" if one["priority"] else f"{one['weight']}{now}"


def _sessions(one: Shape) -> str:
    most = f" of at most {one['max_sessions']}" if one["max_sessions"] else ""
    return f"{one['sessions_active']} now{most}, {one['sessions_total']} in all"


def _traffic(seen: Seen, item: Item, one: Shape, width: int) -> list[Line]:
    def now(counter: str) -> float:
        return seen.rates.now(item.key, counter)

    bars = spark(seen.rates.history(item.key, "sessions_total"), max(min(width - LABEL - 14, 120), 8))
    up, down = bytes_text(now("bytes_up")), bytes_text(now("bytes_down"))
    traffic = f"up {size_text(one['bytes_up'])}, {up}/s; down {size_text(one['bytes_down'])}, {down}/s"
    datagrams = f"up {one['datagrams_up']}, down {one['datagrams_down']}"
    return [
        [(f"{'new':<{LABEL}} ", "bold"), (bars, "cyan"), (f" {rate_text(now('sessions_total'))}/s", "")],
        *_pair("traffic", traffic, width),
        *(_pair("datagrams", datagrams, width) if one["datagrams_up"] or one["datagrams_down"] else []),
    ]


def _others(one: Shape, width: int) -> list[Line]:
    """What few backends have."""
    agent = one["agent"]
    said = {
        "zone": one["zone"],
        "tags": ", ".join(f"{name}={value}" for name, value in one["tags"].items()),
        "agent": f"{agent['percent']}% {agent['remark']}".strip() if agent["percent"] != 100 or agent["remark"] else "",
        "ejections": str(one["ejections"] or ""),
    }
    return [line for name, text in said.items() if text for line in _pair(name, text, width)]


def _latency(latency: Shape, width: int) -> list[Line]:
    lines: list[Line] = []
    for what, label in _WHAT.items():
        known = latency.get(what)
        if known is None:
            continue
        times = ((name, known.get(f"{name}_s")) for name in ("p50", "p90", "p99", "mean"))
        text = ", ".join(f"{name} {seconds_text(value)}" for name, value in times if value is not None)
        lines += _pair(label, f"{text} ({known['count']})" if text else "nothing was measured", width)
    return lines


def _errors(one: Shape, width: int) -> list[Line]:
    failed = counts_text({reason: count for reason, count in one["failed"].items() if count})
    paths = counts_text({reason: count for reason, count in one["path_errors"].items() if count})
    said = {
        "connecting": failed,
        "reset early": str(one["early_resets"] or ""),
        "path": paths,
        "misfits": str(one["source_misfits"] or ""),
    }
    return [line for name, text in said.items() if text for line in _pair(name, text, width)]


def _checks(one: Shape, width: int) -> list[Line]:
    last = [one["last_check"]] if one["last_check"] else []
    checks = sorted(one.get("checks") or last, key=lambda check: -check["at"])[:_CHECKS]
    lines: list[Line] = []
    for check in checks:
        text = "passed in " + check_text(check) if check["ok"] else "failed, " + check_text(check)
        lines += _pair(short_clock_text(check["at"]), text, width, "green" if check["ok"] else "red")
    return lines


def _history(one: Shape) -> list[Line]:
    changes = sorted(one["history"], key=lambda change: -change["at"])[:_CHECKS]
    return [
        [(f"{short_clock_text(change['at']):<{LABEL}} ", "bold"), (str(change["health"]), "")] for change in changes
    ]


def _events(found: Iterable[Shape], width: int, without: Sequence[str]) -> list[Line]:
    lines: list[Line] = []
    for event in list(found)[:_EVENTS]:
        text = sentence(event, without)
        lines += _pair(short_clock_text(event["time"]), text, width, level_style(event["level"]))
    return _block("events, the newest first", lines)
