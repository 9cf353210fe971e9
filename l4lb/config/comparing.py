"""How two configurations differ, each as plain values with its secrets masked (`secrets.py:masked`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

ABSENT: Final[Any] = object()
Values = Mapping[str, Any]


class Difference(NamedTuple):
    """`runs` and `file` are the values, or ABSENT."""

    path: tuple[str, ...]
    runs: Any
    file: Any

    def path_text(self) -> str:
        """Backends stand in brackets: their names have dots."""
        if len(self.path) > 3 and (self.path[0], self.path[2]) == ("pools", "backends"):
            return ".".join([f"{'.'.join(self.path[:3])}[{self.path[3]}]", *self.path[4:]])
        return ".".join(self.path)

    def sides(self) -> dict[str, Any]:
        """`runs` and `file`, without the side on which there is nothing."""
        return {side: value for side, value in (("runs", self.runs), ("file", self.file)) if value is not ABSENT}


def compare(runs: Values, file: Values) -> list[Difference]:
    """The deepest places that differ, in the order of what runs. Backends that discovery has found are left out."""
    found = _differences(_by_backend(runs), _by_backend(file), ())
    return [one for one in found if not _was_discovered(one, runs)]


def _by_backend(config: Values) -> Values:
    """With the backends of each pool by id, so that their order does not matter."""
    pools = {
        name: {**pool, "backends": {one["id"] or one["address"]: one for one in pool["backends"]}}
        for name, pool in config["pools"].items()
    }
    return {**config, "pools": pools}


def _differences(runs: Any, file: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if not isinstance(runs, Mapping) or not isinstance(file, Mapping):
        if runs != file:
            yield Difference(path, runs, file)
        return
    for key in dict.fromkeys([*runs, *file]):
        yield from _differences(runs.get(key, ABSENT), file.get(key, ABSENT), (*path, key))


def _was_discovered(one: Difference, runs: Values) -> bool:
    """A backend that no file has."""
    if one.file is not ABSENT or len(one.path) != 4 or (one.path[0], one.path[2]) != ("pools", "backends"):
        return False
    return runs["pools"][one.path[1]]["discovery"] is not None
