"""What clients, servers and the process say, against what was done to them: what is left over is a violation.

Sessions of listeners whose backends nobody touches must all go well, whatever happens besides. Those of the others may
fail, but never so that it looks well: nobody gets another's bytes, and no stream that was cut ends in order.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NEVER = {"wrong": "changed bytes", "foreign": "another's bytes", "short": "a cut stream that ended in order"}
UNSTABLE = {"shaky", "victims"}  # their sessions may be reset
COMES_AND_GOES = {"moving", "extra"}  # these may be refused
BEFORE_S, AFTER_S = 10.0, 1.0  # how near an event must be to be shown with a violation
LOST_PERMILLE = 10  # datagrams, where no backend fails
EXPECTED = ("accepting paused", "backend down", "no usable backend", "ejected")


@dataclass
class Violation:
    kind: str
    what: str
    at: float
    around: list[str] = field(default_factory=list)


class Judge:
    def __init__(self) -> None:
        self.began = time.time()
        self.events: list[tuple[float, str]] = []
        self.violations: list[Violation] = []
        self.excused: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    # ---- what happens ----

    def event(self, what: str) -> None:
        with self._lock:
            self.events.append((time.time(), what))
            self.counts[what.split()[0]] += 1

    def around(self, at: float) -> list[str]:
        return [f"{when - at:+.2f} s {what}" for when, what in list(self.events) if -BEFORE_S < when - at < AFTER_S]

    def violation(self, kind: str, what: str, at: float = 0.0) -> None:
        at = at or time.time()
        with self._lock:
            self.violations.append(Violation(kind, what, at, self.around(at)))

    def _happened(self, what: str, since: float, until: float) -> bool:
        return any(since <= when <= until and event.startswith(what) for when, event in list(self.events))

    # ---- what is said ----

    def outcome(self, said: dict[str, Any]) -> None:
        """A session that did not go well."""
        how, listener = said["how"], said["listener"]
        if how in NEVER:
            self.violation(f"{NEVER[how]} ({listener}, {said['kind']})", str(said), said["ended"])
        elif how == "late":
            self.violation(f"stuck ({listener}, {said['kind']})", str(said), said["ended"])
        elif listener in UNSTABLE:
            self.excused[f"{listener} {how}"] += 1
        elif listener in COMES_AND_GOES and (how == "refused" or not said["server"]):
            self.excused[f"{listener} {how}"] += 1  # its listening socket closed: before a backend was there
        else:
            self.violation(f"lost: {how} ({listener}, {said['kind']})", str(said), said["ended"])

    def server(self, said: dict[str, Any]) -> None:
        """A reset cannot be told from an end on a unix socket."""
        if said["how"] == "short" and said["unix"]:
            self.excused["unix server short"] += 1
        elif said["how"] in NEVER:
            self.violation(f"{NEVER[said['how']]} (at a server)", str(said), said["time"])

    def log(self, text: str) -> None:
        for match in re.finditer(r"Traceback[\s\S]{0,2000}?\n(?=\d{4}-|\Z)", text):
            self.violation("traceback", match[0])
        for line in re.findall(r"^\S+ error .*", text, re.MULTILINE):
            if not any(expected in line for expected in EXPECTED):
                self.violation("error in the log", line)
        for line in re.findall(r"^leaks \{.*\}$", text, re.MULTILINE):
            if re.search(r": -?[1-9]", line):
                self.violation("leak", line)

    def questions(self, counts: Counter[str]) -> None:
        for listener in ("asked", "once", "quic"):
            asked, lost = counts[f"{listener} asked"], counts[f"{listener} lost"]
            if lost * 1000 > asked * LOST_PERMILLE:
                self.violation(f"datagrams lost ({listener})", f"{lost} of {asked}")

    # ---- what came of it ----

    def summary(self) -> str:
        kinds = Counter(violation.kind for violation in self.violations)
        lines = [f"violations: {len(self.violations)}"]
        for kind, count in kinds.most_common():
            first = next(violation for violation in self.violations if violation.kind == kind)
            lines.append(f"  {count} x {kind}: first after {first.at - self.began:.1f} s: {first.what[:600]}")
            lines += [f"      {line}" for line in first.around[-12:]]
        return "\n".join(lines)
