"""What was not converted: each thing once, with its line, and why or what to do instead."""

from __future__ import annotations

from l4lb.convert.drafting.draft import Place
from l4lb.errors import ConfigError, Problem

_SHOWN_MAX = 100  # characters of a directive


class Report:
    """Collects them, in any order."""

    def __init__(self) -> None:
        self._notes: dict[tuple[Place, str, str], None] = {}

    def lost(self, place: Place, what: str, why: str) -> None:
        """`what` is the directive as it was written."""
        shown = what if len(what) <= _SHOWN_MAX else f"{what[:_SHOWN_MAX]}..."
        self._notes[place, shown, why] = None

    @property
    def problems(self) -> list[Problem]:
        """In the order of the files' lines, those of one file together."""
        files = {place.file: None for place, _, _ in self._notes}
        order = {file: index for index, file in enumerate(files)}
        ordered = sorted(self._notes, key=lambda note: (order[note[0].file], note[0].line))
        return [Problem(what, why, place.file, place.line) for place, what, why in ordered]


def failure(place: Place, message: str) -> ConfigError:
    """The error for a text that is not understood; to be raised."""
    return ConfigError([Problem("", message, place.file, place.line)])
