"""The programs as they were loaded together, with the maps that are theirs alone: services, tables, answers. What is
known of flows and backends, and what is counted, is in maps that go from one generation to the next.

A new generation comes when the tables need more room, or with another version of l4lb. It is filled while the one
before forwards; then each link goes from program to program in one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from hashlib import sha256

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.inherited import Inherited
from l4lb.engine.kernel.layout import SIZES
from l4lb.engine.kernel.slots import Slots

_OWN = ("services", "slots", "answers")
_WHAT = {"services": "service", "answers": "answer"}
_FIRST = "xdp"


class Generation:
    """`images` are the object files of the programs by name, `sizes` the numbers of entries of maps. `maps` and
    `programs`: those that are there already; others are loaded when they are needed.

    OSError when the kernel does not take them.
    """

    def __init__(
        self,
        images: Mapping[str, bytes],
        sizes: Mapping[str, int],
        maps: Mapping[str, kernel.Fd],
        programs: Mapping[str, kernel.Program],
    ) -> None:
        self._images = images
        self._sizes = sizes
        self.maps = dict(maps)
        self.programs = dict(programs)
        if not self.programs:
            self.program(_FIRST)
        self.digests = digests(images)
        self.pinned = ""  # under which name, if it is
        self.slots = Slots(self.maps["slots"].number)
        self.services: dict[bytes, bytes] = {}  # what is in these maps
        self.answers: dict[bytes, bytes] = {}

    def program(self, name: str) -> kernel.Program:
        """xdp or tcx. OSError when the kernel does not take it."""
        if name not in self.programs:
            program, self.maps = kernel.load(self._images[name], f"l4lb_{name}", self._sizes, self.maps)
            self.programs[name] = program
        return self.programs[name]

    def load(self, names: Iterable[str]) -> Generation:
        """These programs, while there is still the right to. OSError when the kernel does not take them."""
        for name in names:
            self.program(name)
        return self

    def is_of(self, inherited: Inherited | None) -> bool:
        """Whether these are the programs and maps of that process, all of them."""
        return inherited is not None and self.maps.get("services") is inherited.maps.get("services")

    def larger(self, words: int) -> Generation:
        """The same programs with room for so many words of slots, and nothing in their own maps yet. OSError."""
        sizes = {**self._sizes, "slots": words}
        return Generation(self._images, sizes, shared(self.maps), {}).load(self.programs)

    def read_again(self) -> None:
        """What is in its own maps: another process may have written there."""
        found = (contents(self.maps[name].number, SIZES["endpoint"], SIZES[what]) for name, what in _WHAT.items())
        self.services, self.answers = found
        regions = {(first, count) for _, first, count in map(layout.service_parts, self.services.values()) if count}
        self.slots = Slots(self.maps["slots"].number, regions)

    def write(self, name: str, key: bytes, value: bytes) -> None:
        """Into `services` or `answers`."""
        written = self._written(name)
        if written.get(key) != value:
            kernel.update(self.maps[name].number, key, value)
            written[key] = value

    def remove(self, name: str, key: bytes, value: bytes) -> None:
        """Unless it has another value by now."""
        written = self._written(name)
        if written.get(key) == value:
            kernel.delete(self.maps[name].number, key)
            del written[key]

    def _written(self, name: str) -> dict[bytes, bytes]:
        return self.services if name == "services" else self.answers


def shared(maps: Mapping[str, kernel.Fd]) -> dict[str, kernel.Fd]:
    """Those that go from one generation to the next."""
    return {name: fd for name, fd in maps.items() if name not in _OWN}


def digests(images: Mapping[str, bytes]) -> dict[str, str]:
    """By which the same programs are known again."""
    return {name: sha256(image).hexdigest()[:16] for name, image in images.items()}


def contents(fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    """Of a map. OSError."""
    found = ((key, kernel.lookup(fd, key, value_size)) for key in kernel.keys(fd, key_size))
    return {key: value for key, value in found if value is not None}


def first_generation(images: Mapping[str, bytes], sizes: Mapping[str, int], inherited: Inherited | None) -> Generation:
    """OSError when programs cannot be loaded."""
    if inherited is None:
        return Generation(images, sizes, {}, {})
    needed = {one.program for one in inherited.links}
    if inherited.layout != kernel.LAYOUT:
        return Generation(images, sizes, {}, {}).load(needed)
    if dict(inherited.images) != digests(images):
        with contextlib.suppress(PermissionError):  # those that are there mean the same
            return Generation(images, sizes, shared(inherited.maps), {}).load(needed)
    made = Generation(images, sizes, inherited.maps, inherited.programs)
    made.digests = dict(inherited.images)
    return made
