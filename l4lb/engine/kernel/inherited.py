"""What one process has in the kernel and another goes on with: maps, programs, links; as descriptors, and what is to be
said of them in JSON."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l4lb._native import kernel
from l4lb.engine.kernel.attaching import Attached


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
            maps, programs, links = list(about["maps"]), list(about["programs"]), list(about["links"])
            if len(fds) != len(maps) + len(programs) + len(links):
                raise ValueError(f"{len(fds)} descriptors")
            said = [(str(one["device"]), str(one["way"]), str(one["why"])) for one in links]
            layout, images = str(about["layout"]), dict(about["images"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not what this version hands over: {error}") from None
        owned = iter([kernel.Fd(fd) for fd in fds])
        return cls(
            layout,
            images,
            {name: next(owned) for name in maps},
            {name: kernel.Program(next(owned)) for name in programs},
            [Attached(*one, next(owned)) for one in said],
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
