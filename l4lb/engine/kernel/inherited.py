"""What one process has in the kernel and another goes on with: maps, programs, links; as descriptors, and what is to be
said of them in JSON.

What comes from another process is looked at before anything is read, written or mapped: the kernel fills as many bytes
as a map has, whatever room there is for them.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from l4lb._native import kernel
from l4lb._native.reports import MapShape
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import Attached, images, program_of

_MAP, _PROGRAM, _LINK = (f"anon_inode:{name}" for name in ("bpf-map", "bpf-prog", "bpf-link"))  # as bpftool knows them
_PROGRAM_TYPES = {"xdp": 6, "tcx": 3}  # enum bpf_prog_type of linux/bpf.h: XDP, SCHED_CLS
_LINK_TYPES = {"xdp": 6, "tcx": 11}  # enum bpf_link_type
_ANY_SIZE = ("slots", *layout.FLOW_MAPS)  # with room for as much as was wanted when they were made


@dataclass(frozen=True, slots=True)
class Inherited:
    """`layout`: what is in the maps, see `kernel.LAYOUT`; `images`: digests of the programs' object files."""

    layout: str
    images: Mapping[str, str]
    maps: Mapping[str, kernel.Fd]
    programs: Mapping[str, kernel.Program]
    links: Sequence[Attached]

    def about(self) -> dict[str, Any]:
        links = [{"device": one.device, "way": one.way, "why": one.why} for one in self.links]
        named = {"maps": list(self.maps), "programs": list(self.programs), "links": links}
        return {"layout": self.layout, "images": dict(self.images), **named}

    def fds(self) -> list[int]:
        """In the order of `about`. They stay open here."""
        programs = [one.fd for one in self.programs.values()]
        return [fd.number for fd in (*self.maps.values(), *programs, *(one.link for one in self.links))]

    @classmethod
    def of(cls, about: Mapping[str, Any], fds: Sequence[int]) -> Inherited:
        """From those of another process; the descriptors belong to the result. ValueError when they are not what this
        version sends; then they are the caller's."""
        try:
            found = _About.of(about)
            found.expect_kinds(fds)
            if found.layout == kernel.LAYOUT:
                _expect_shapes(dict(zip(found.maps, fds, strict=False)))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"not what this version hands over: {error}") from None
        owned = iter([kernel.Fd(fd) for fd in fds])
        return cls(
            found.layout,
            found.images,
            {name: next(owned) for name in found.maps},
            {name: kernel.Program(next(owned)) for name in found.programs},
            [Attached(*one, next(owned)) for one in found.links],
        )

    def living_links(self) -> list[Attached]:
        """Those whose device is still there, under the same name."""
        return [one for one in self.links if _is_at(one)]


def _is_at(one: Attached) -> bool:
    """if_nametoindex(3): ENODEV."""
    try:
        return kernel.device_of(one.link.number) == socket.if_nametoindex(one.device)
    except OSError:
        return False


# ---- what another process says, before it is believed ----


class _About(NamedTuple):
    """`links`: device, way and why of each."""

    layout: str
    images: dict[str, str]
    maps: list[str]
    programs: list[str]
    links: list[tuple[str, str, str]]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> _About:
        """KeyError, TypeError, ValueError."""
        links = [(str(one["device"]), str(one["way"]), str(one["why"])) for one in said["links"]]
        if len({device for device, _, _ in links}) != len(links):
            raise ValueError("a device has two links")
        return cls(str(said["layout"]), dict(said["images"]), _names(said["maps"]), _names(said["programs"]), links)

    def expect_kinds(self, fds: Sequence[int]) -> None:
        """ValueError, OSError; KeyError for a program or way that is not known."""
        wanted = [(f"map {name}", _MAP, 0) for name in self.maps]
        wanted += [(f"program {name}", _PROGRAM, _PROGRAM_TYPES[name]) for name in self.programs]
        wanted += [(f"link of {device}", _LINK, _LINK_TYPES[program_of(way)]) for device, way, _ in self.links]
        if len(fds) != len(wanted):
            raise ValueError(f"{len(fds)} descriptors for {len(wanted)}")
        for fd, (name, kind, type_) in zip(fds, wanted, strict=True):
            found = os.readlink(f"/proc/self/fd/{fd}").replace("_link", "-link")  # that of who made it
            if found != kind or type_ not in (0, kernel.type_of(fd)):
                raise ValueError(f"{name}: {found} is another kind")


def _names(said: Any) -> list[str]:
    """TypeError, ValueError."""
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise TypeError("expected a list of names")
    if len(set(said)) != len(said):
        raise ValueError("a name comes twice")
    return said


def _expect_shapes(maps: Mapping[str, int]) -> None:
    """That the maps are those of these programs. KeyError for one that is missing, ValueError, OSError."""
    for name, wanted in _shapes().items():
        found = kernel.shape(maps[name])
        if name in _ANY_SIZE:
            wanted = wanted._replace(entries=found.entries)
        if found != wanted:
            raise ValueError(f"map {name}: {found}, expected {wanted}")


@functools.cache
def _shapes() -> dict[str, MapShape]:
    return {name: shape for image in images().values() for name, shape in kernel.declared(image).items()}
