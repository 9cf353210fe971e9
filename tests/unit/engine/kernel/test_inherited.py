"""What another process hands over is looked at before it is used: whatever it says and whatever the descriptors are,
the end is either a forwarder that goes on or a clean refusal."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import gc
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb._native import kernel as native
from l4lb.engine.engines import Engines
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.inherited import Inherited
from l4lb.errors import ConfigError
from l4lb.model.forwarder import ExportedKernel
from l4lb.model.snapshot import KernelTerms
from tests.support import bpf
from tests.support.kernel import Kernel, kernel, on_a_host

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["tcx", "xdp"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LISTENING = ("127.0.0.1", 0)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of a JSON value with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn, original: str) -> dict[str, Any]:
    """With some of its parts replaced by others, left out or said twice."""
    value: dict[str, Any] = json.loads(original)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        how = draw(st.sampled_from(["replace", "remove", "again"]))
        if how == "remove":
            del container[key]
        elif how == "again" and isinstance(container, list):
            container.append(container[key])
        else:
            other, at = draw(st.sampled_from(found))
            container[key] = draw(JUNK | st.just(copy.deepcopy(other[at])))
    return value


def are_open(fds: list[int]) -> list[bool]:
    found = []
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            found.append(False)
        else:
            found.append(True)
    return found


@contextlib.contextmanager
def exporting() -> Iterator[Kernel]:
    """A forwarder with both programs and links."""
    with kernel("tcx", "nat") as made:
        for way, device in (("tcx", "v0"), ("generic", "v1")):
            made.forwarder.prepare(made.snapshot(kernel=KernelTerms("nat", way, (device,))).listeners)
        yield made


def refused(about: dict[str, Any], fds: list[int], why: str) -> None:
    """And the descriptors stay the caller's, who closes them."""
    with pytest.raises(ValueError, match=why):
        Inherited.of(about, fds)
    assert all(are_open(fds))
    for fd in fds:
        os.close(fd)


def test_it_says_anything() -> None:
    def check() -> None:
        with exporting() as made:
            exported = made.forwarder.exported()
            original, fds = json.dumps(exported.about()), exported.fds()
            position = st.just(0) | st.integers(0, len(fds) - 1)
            assert Inherited.of(json.loads(original), [os.dup(fd) for fd in fds]).about() == exported.about()

            @settings(max_examples=300)
            @given(mutated(original), position, position)
            def believe(about: dict[str, Any], one: int, other: int) -> None:
                sent = [os.dup(fd) for fd in fds]
                sent[one], sent[other] = sent[other], sent[one]
                try:
                    found = Inherited.of(about, sent)
                except ValueError:
                    assert all(are_open(sent))
                    for fd in sent:
                        os.close(fd)
                else:
                    assert sorted(found.fds()) == sorted(sent)
                    del found
                    gc.collect()
                    assert not any(are_open(sent))

            believe()

    on_a_host(check)


def a_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def a_socket() -> int:
    return socket.socket().detach()


def a_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def a_map(kind: int, key: int, value: int, entries: int, flags: int = 0) -> int:
    """bpf(2): BPF_MAP_CREATE."""
    attributes = b"".join(one.to_bytes(4, "little") for one in (kind, key, value, entries, flags))
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(bpf.SYS_BPF, 0, attributes, ctypes.c_uint(len(attributes)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


@pytest.mark.parametrize("make", [a_file, a_socket, a_pipe])
def test_what_is_no_object_of_bpf(make: Callable[[], int]) -> None:
    """In the place of each."""

    def check() -> None:
        with exporting() as made:
            exported = made.forwarder.exported()
            for at in range(len(exported.fds())):
                fds = [os.dup(fd) for fd in exported.fds()]
                os.close(fds[at])
                fds[at] = make()
                refused(exported.about(), fds, "is another kind")

    on_a_host(check)


def test_one_kind_for_another() -> None:
    def check() -> None:
        with exporting() as made:
            exported = made.forwarder.exported()
            maps, programs = len(exported.maps), len(exported.programs)
            for one, other in ((0, maps), (0, maps + programs), (maps, maps + programs), (maps, maps + 1), (-1, -2)):
                fds = [os.dup(fd) for fd in exported.fds()]
                fds[one], fds[other] = fds[other], fds[one]
                refused(exported.about(), fds, "is another kind")

    on_a_host(check)


def test_maps_of_other_sizes() -> None:
    """Of another kind, with larger or smaller keys and values, with other numbers of entries, not to be mapped."""

    def check() -> None:
        with exporting() as made:
            exported = made.forwarder.exported()
            for at, name in enumerate(exported.maps):
                kind, key, value, entries, flags = native.shape(exported.maps[name].number)
                others = [(kind, key, value + 8, entries), (1 if kind != 1 else 9, key, value, entries)]
                if name not in ("slots", *layout.FLOW_MAPS):
                    others.append((kind, key, value, entries + 1))
                if kind not in (2, 6):  # arrays
                    others.append((kind, key + 4, value, entries))
                for one in others:
                    fds = [os.dup(fd) for fd in exported.fds()]
                    os.close(fds[at])
                    fds[at] = a_map(*one, flags if one[0] == kind else 0)
                    refused(exported.about(), fds, f"map {name}: ")
                if flags & 1024:  # BPF_F_MMAPABLE
                    fds = [os.dup(fd) for fd in exported.fds()]
                    os.close(fds[at])
                    fds[at] = a_map(kind, key, value, entries)
                    refused(exported.about(), fds, f"map {name}: ")

    on_a_host(check)


def test_a_map_is_missing_or_another_layout_has_other_maps() -> None:
    def check() -> None:
        with exporting() as made:
            exported = made.forwarder.exported()
            about, fds = exported.about(), [os.dup(fd) for fd in exported.fds()]
            at = about["maps"].index("places")
            del about["maps"][at]
            os.close(fds.pop(at))
            Inherited.of({**about, "layout": "another"}, [os.dup(fd) for fd in fds])
            refused(about, fds, "places")

    on_a_host(check)


def test_shapes_are_those_of_what_is_loaded() -> None:
    def check() -> None:
        with kernel("xdp", "nat") as made:
            for name, shape in native.declared(images()["xdp"]).items():
                found = native.shape(made.forwarder.exported().maps[name].number)
                assert found._replace(entries=0) == shape._replace(entries=0), name
        with pytest.raises(OSError, match="no object file"):
            native.declared(b"nothing")
        with socket.socket() as sock, pytest.raises(OSError, match="shape") as error:
            native.shape(sock.fileno())
        assert error.value.errno == errno.EINVAL

    on_a_host(check)


# ---- the whole message ----


@contextlib.contextmanager
def engines() -> Iterator[Engines]:
    made = Engines(1)
    try:
        yield made
    finally:
        made.close()


def taken(about: dict[str, Any], fds: list[int]) -> bool:
    """Whether it goes on with them, and nothing of them stays after its end."""
    with engines() as made:
        try:
            made.import_kernel(ExportedKernel(fds, about))
            went_on = made.export_kernel() is not None
        except ConfigError:
            went_on = False
    del made
    gc.collect()
    assert not any(are_open(fds))
    return went_on


def test_engines_take_it_over_or_leave_it(caplog: pytest.LogCaptureFixture) -> None:
    """And say so."""

    def check() -> None:
        with exporting() as made, socket.create_server(LISTENING) as one, socket.create_server(LISTENING) as other:
            exported = made.forwarder.exported()
            held = [["tcp", 2, *sock.getsockname()] for sock in (one, other)]
            about, fds = (
                {**exported.about(), "held": held, "locked": 0},
                [*exported.fds(), one.fileno(), other.fileno()],
            )
            assert taken(about, [os.dup(fd) for fd in fds])
            assert not caplog.records
            for wrong in (
                [held[1], held[0]],
                [held[0], held[0]],
                [["udp", *held[0][1:]], held[1]],
                [["tcp", 10, *held[0][2:]], held[1]],
                [["tcp", 2, "127.0.0.2", held[0][3]], held[1]],
                [["tcp", 2, 7, held[0][3]], held[1]],
                [["tcp", 2, [], []], held[1]],
                [held[0]],
                [*held, held[0]],
                held * len(fds),
                "tcp",
                None,
            ):
                assert not taken({**about, "held": wrong}, [os.dup(fd) for fd in fds]), wrong
                assert caplog.messages == ["forwarding in the kernel not taken over"]
                caplog.clear()
            assert not taken(about, [*(os.dup(fd) for fd in fds[:-1]), a_file()])

    on_a_host(check)


def test_engines_are_told_anything() -> None:
    def check() -> None:
        with exporting() as made, socket.create_server(LISTENING) as sock:
            exported = made.forwarder.exported()
            about = {**exported.about(), "held": [["tcp", 2, *sock.getsockname()]], "locked": 0}
            fds = [*exported.fds(), sock.fileno()]

            @settings(max_examples=40)
            @given(mutated(json.dumps(about)))
            def believe(said: dict[str, Any]) -> None:
                taken(said, [os.dup(fd) for fd in fds])

            believe()

    on_a_host(check)
