"""What is pinned for a process that comes after a crash: it goes on from that, or finds nothing in its way."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

if TYPE_CHECKING:
    from l4lb.engine.kernel.generation import Generation

from l4lb.engine.kernel import pinning
from l4lb.engine.kernel.pinning import Keeping, Pins
from l4lb.model.snapshot import KernelTerms
from tests.support.frames import ACK, TCP
from tests.support.kernel import PROGRAMS, Kernel, make_host, on_a_host, request
from tests.support.programs import run

_CLONE_NEWNS = 0x20000
WAYS = {"xdp": "generic", "tcx": "tcx"}
ASKED = [request(4, TCP, number) for number in range(1, 60)]
LATER = [replace(one, flags=ACK) for one in ASKED]


def with_bpffs(place: Path, check: Callable[[Path], None]) -> None:
    """On a host that has one of its own there, and on which nothing else is pinned."""

    def inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) < 0:
            pytest.skip(f"no mount namespace can be made: {os.strerror(ctypes.get_errno())}")
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "bpf", "bpf", str(place))
        try:
            check(place / "l4lb-test")
        finally:
            gc.collect()
            run("umount", "--lazy", str(place))

    on_a_host(inside)


def attached(made: Kernel, way: str = "") -> None:
    """By v0, unless it is so already."""
    terms = KernelTerms("nat", way or WAYS[made.name], ("v0",))
    made.forwarder.prepare(made.snapshot(kernel=terms).listeners)
    made.publish(kernel=terms)
    made.forwarder.take_over()


@contextlib.contextmanager
def process(program: str, path: Path, *, wanted: bool = True) -> Iterator[Kernel]:
    """Which is killed at the end, unless it has closed its forwarder."""
    pins = Pins.made(path, 0)
    keeping = Keeping(pins) if wanted else Keeping(unwanted=pins)
    made = Kernel(program, "nat", inherited=pins.found(), keeping=keeping)
    try:
        yield made
    finally:
        made.forwarder.give_up()


def links(path: Path) -> list[str]:
    return os.listdir(path / "links")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_next_one_goes_on(program: str, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        with process(program, path) as made:
            attached(made)
            first = [made.goes_to(one) for one in ASKED]
            assert [made.goes_to(one) for one in LATER] == first
        del made
        gc.collect()
        with process(program, path) as made:
            attached(made)
            assert [made.goes_to(one) for one in LATER] == first
            assert made.forwarder.flows_on("tcp4") == 59
            made.forwarder.close()
        assert not path.exists()

    with_bpffs(tmp_path, check)


def without_a_map(path: Path, generation: Path) -> None:
    os.unlink(generation / "maps:places")


def with_a_map_of_another_name(path: Path, generation: Path) -> None:
    os.rename(generation / "maps:places", generation / "maps:others")


def with_something_more(path: Path, generation: Path) -> None:
    os.rename(generation / "maps:places", generation / "others")


def with_a_device_twice(path: Path, generation: Path) -> None:
    os.link(path / "links" / links(path)[0], path / "links" / "native:v0")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("spoil", [without_a_map, with_a_map_of_another_name, with_something_more, with_a_device_twice])
def test_what_nobody_can_go_on_with_is_removed(
    spoil: Callable[[Path, Path], None], program: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that the device is free: an old program that went on there would send clients where nobody checks."""

    def check(path: Path) -> None:
        with process(program, path) as made:
            attached(made)
        del made
        gc.collect()
        (generation,) = path.glob("[0-9]*")
        spoil(path, generation)
        with process(program, path) as made:
            assert "pinned forwarding removed" in caplog.text
            assert not (path / "links").exists()
            assert [one.name.partition("-")[0] for one in path.iterdir()] == ["1"]
            attached(made)
            assert links(path) == [f"{WAYS[program]}:v0"]
            made.sent(ASKED[0])
            made.forwarder.close()
        assert not path.exists()

    with_bpffs(tmp_path, check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_cannot_be_opened_stays(program: str, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        with process(program, path) as made:
            attached(made)
            before = sorted(path.rglob("*"))
        del made
        gc.collect()
        pins = Pins.made(path, 0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(free := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, limits[1]))
        try:
            with pytest.raises(OSError, match="maps:") as error:
                pins.found()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert error.value.errno == errno.EMFILE
        assert sorted(path.rglob("*")) == before
        pins.remove()
        pins.close()

    with_bpffs(tmp_path, check)


def test_a_device_that_came_back_has_one_link(tmp_path: Path) -> None:
    """Attached by another way than before, too."""

    def check(path: Path) -> None:
        with process("tcx", path) as made:
            attached(made)
            for way in ("generic", "tcx"):
                run("ip", "link", "del", "v0")
                make_host()
                made.forwarder.hold()
                made.forwarder.take_over()  # which forgets devices that are gone
                attached(made, way)
                assert links(path) == [f"{way}:v0"]
            made.forwarder.close()

    with_bpffs(tmp_path, check)


@pytest.mark.parametrize("program", PROGRAMS)
def test_one_that_does_not_pin_removes_it_once_it_has_taken_over(program: str, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        with process(program, path) as made:
            attached(made)
            first = [made.goes_to(one) for one in ASKED]
            assert [made.goes_to(one) for one in LATER] == first
            before = sorted(path.rglob("*"))
        del made
        gc.collect()
        with process(program, path, wanted=False) as made:
            assert made.forwarder.attached
            made.forwarder.close()  # before it was of any use
        assert sorted(path.rglob("*")) == before
        del made
        gc.collect()
        with process(program, path, wanted=False) as made:
            attached(made)
            assert not path.exists()
            assert [made.goes_to(one) for one in LATER] == first
            made.forwarder.close()

    with_bpffs(tmp_path, check)


@pytest.mark.parametrize(("number", "is_short"), [(errno.EINVAL, False), (errno.EPERM, False), (errno.EMFILE, True)])
def test_a_program_that_cannot_be_had(number: int, is_short: bool) -> None:
    """Not here at all, or not now: what may be needed later is not left out for a shortage."""

    class Unloadable:
        def load(self, names: object) -> None:
            raise OSError(number, os.strerror(number))

        def is_of(self, inherited: object) -> bool:
            return True

    class Pinned:
        def newest(self) -> str:
            return "1-a-b-c"

    keeping = Keeping(cast("Pins", Pinned()))
    with pytest.raises(OSError, match="Too many open files") if is_short else contextlib.nullcontext():
        keeping.begin(cast("Generation", Unloadable()), None, ())


def test_a_url_is_the_same_wherever_the_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "mounted", lambda: tmp_path)
    found = []
    for directory in (tmp_path, Path("/")):
        monkeypatch.chdir(directory)
        found.append((pinning.directory_for("etcd://host/l4lb/config"), pinning.directory_for("lb.toml")))
    (url, file), (url_elsewhere, other_file) = found
    assert url == url_elsewhere
    assert file != other_file
