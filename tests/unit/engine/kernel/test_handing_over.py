"""What forwards in the kernel goes from one forwarder to another, as from one process to the next."""

from __future__ import annotations

import gc
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.engine.kernel.generation import digests
from l4lb.engine.kernel.inherited import Inherited
from l4lb.model.snapshot import KernelTerms
from l4lb.net.ranges import packed_ranges
from tests.support.bpf import link_exists, link_id
from tests.support.frames import ACK, TCP, UDP
from tests.support.kernel import (
    DROPPED,
    PROGRAMS,
    SLOTS,
    Kernel,
    expected,
    kernel,
    on_a_host,
    request,
)
from tests.support.programs import run

OTHER_SLOTS = array("I", [(slot + 1) % 3 for slot in SLOTS])


def sent(forwarder: KernelForwarder) -> Inherited:
    """As another process gets it."""
    exported = forwarder.exported()
    return Inherited.of(json.loads(json.dumps(exported.about())), [os.dup(fd) for fd in exported.fds()])


def heir(before: Kernel, objects: dict[str, bytes] | None = None) -> Kernel:
    """It has not taken over yet."""
    made = Kernel.__new__(Kernel)
    made.__dict__.update(before.__dict__)
    inherited = sent(before.forwarder)
    made.forwarder = KernelForwarder(objects or images(), slots=1 << 12, flows=1 << 12, inherited=inherited)
    made.program = made.forwarder.program(made.name)
    return made


def another_version() -> dict[str, bytes]:
    """The same programs, in object files that differ."""
    return {name: image + b"\0" for name, image in images().items()}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("version", [images, another_version])
def test_flows_counts_and_lists_go_on(version: Callable[[], dict[str, bytes]], program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as old:
            asked = [request(4, protocol, number) for protocol in (TCP, UDP) for number in range(1, 60)]
            first = [old.goes_to(one) for one in asked]
            later = [replace(one, flags=ACK) for one in asked]
            assert [old.goes_to(one) for one in later] == first
            denied = request(4, TCP, 130)
            old.publish(refused=packed_ranges(("192.0.2.130",)))
            new = heir(old, version())
            old.forwarder.hold()
            new.publish(OTHER_SLOTS)  # waits
            old.publish(OTHER_SLOTS)
            assert old.sees(denied)[0] == DROPPED[program]
            assert old.goes_to(request(4, UDP, 70)) == expected(request(4, UDP, 70), {})
            before = old.forwarder.listener("tcp4")
            new.forwarder.take_over()
            assert [new.goes_to(one) for one in later] == first
            assert new.forwarder.listener("tcp4").packets_up == before.packets_up + 59
            assert new.forwarder.flows_on("tcp4") == 59
            moved = {"a": "b", "b": "c", "c": "a"}
            assert new.goes_to(request(4, UDP, 90)) == moved[expected(request(4, UDP, 90), {})]
            new.sent(denied)  # it is on no list there
            old.forwarder.close()
            assert new.goes_to(later[0]) == first[0]
            new.publish(SLOTS)
            assert [new.goes_to(one) for one in later] == first
            new.forwarder.close()

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_old_one_goes_on_when_the_new_one_fails(program: str) -> None:
    def check() -> None:
        with kernel(program, "nat") as old:
            asked = [request(4, protocol, number) for protocol in (TCP, UDP) for number in range(1, 60)]
            first = [old.goes_to(one) for one in asked]
            later = [replace(one, flags=ACK) for one in asked]
            assert [old.goes_to(one) for one in later] == first
            new = heir(old)
            old.forwarder.hold()
            new.publish(OTHER_SLOTS, prefix="other-")
            new.forwarder.take_over()  # and ends
            assert [new.goes_to(one) for one in later] == first
            new.forwarder.close()
            old.publish(SLOTS)
            old.forwarder.take_over()
            assert [old.goes_to(one) for one in later] == first
            assert old.goes_to(request(4, UDP, 90)) == expected(request(4, UDP, 90), {})
            assert old.forwarder.flows_on("tcp4") + old.forwarder.flows_on("other-tcp4") == 59

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_links_go_over_and_stay_until_the_last_one_closes_them(program: str) -> None:
    def check() -> None:
        way = "tcx" if program == "tcx" else "generic"
        terms = KernelTerms("nat", way, ("v0",))
        with kernel(program, "nat") as old:
            old.forwarder.prepare(old.snapshot(kernel=terms).listeners)
            (attached,) = old.forwarder.attached
            id_ = link_id(attached.link.number)
            new = heir(old, another_version())
            old.forwarder.hold()
            new.forwarder.prepare(new.snapshot(kernel=terms).listeners)
            new.publish(kernel=terms)
            new.forwarder.take_over()
            assert [(one.device, one.way) for one in new.forwarder.attached] == [("v0", way)]
            del attached
        del old
        gc.collect()
        assert link_exists(id_)
        new.forwarder.close()
        assert not link_exists(id_)

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_link_whose_device_is_gone_is_forgotten(program: str) -> None:
    def check() -> None:
        way = "tcx" if program == "tcx" else "generic"
        with kernel(program, "nat") as old:
            old.forwarder.prepare(old.snapshot(kernel=KernelTerms("nat", way, ("v0", "v1"))).listeners)
            assert len(old.forwarder.attached) == 2
            inherited = sent(old.forwarder)
            run("ip", "link", "del", "v0")
            assert inherited.living_links() == []
            old.forwarder.hold()
            old.forwarder.take_over()
            assert old.forwarder.attached == []

    on_a_host(check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_the_right_to_load_it_goes_on_with_the_programs_that_are_there(program: str) -> None:
    """And tells the one after it that they are those, so that it loads its own, if it may."""

    def check() -> None:
        with kernel(program, "nat") as old:
            before, inherited, version = old.forwarder.exported(), sent(old.forwarder), another_version()
            os.seteuid(65534)  # who may not even read the object files
            try:
                new = KernelForwarder(version, slots=1 << 12, flows=1 << 12, inherited=inherited)
            finally:
                os.seteuid(0)
            assert new.exported().images == before.images == digests(images())
            assert new.exported().programs == inherited.programs
            new.close()

    on_a_host(check)


def test_what_is_no_inheritance() -> None:
    for about in ({}, {"maps": ["a"], "programs": [], "links": [], "layout": "", "images": {}}, {"maps": 1}):
        with pytest.raises(ValueError, match="not what this version hands over"):
            Inherited.of(about, [])
