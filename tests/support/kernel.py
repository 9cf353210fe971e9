"""A forwarder in the kernel whose programs are tried with single packets (BPF_PROG_TEST_RUN), on a host with three
backends of each family and a gateway to everywhere else. Needs `l4lb._native.kernel`."""

from __future__ import annotations

import contextlib
import random
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.engine.kernel.inherited import Inherited
from l4lb.engine.kernel.pinning import Keeping
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, HashKey, KernelTerms, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import Protocol
from l4lb.routing.hashing import client_hash
from tests.support.frames import SYN, TCP, UDP, Frame
from tests.support.namespaces import in_namespace, set_sysctl
from tests.support.programs import run
from tests.support.slow import first_and_slow

PROGRAMS = first_and_slow("xdp", "tcx")  # parameters: both are compiled from one source
PASSED, DROPPED, SENT = {"xdp": 2, "tcx": 2**32 - 1}, {"xdp": 1, "tcx": 2}, {"xdp": 4, "tcx": 7}
FAMILIES = {4: 2, 6: 10}
SERVICE = {4: "203.0.113.1", 6: "2001:db8:1::1"}
CLIENT = {4: "192.0.2.{}", 6: "2001:db8::{:x}"}
BACKENDS = {4: ["10.9.0.11", "10.9.0.12", "10.9.0.13"], 6: ["fd09::11", "fd09::12", "fd09::13"]}
GATEWAY = {4: "10.9.0.254", 6: "fd09::254"}
LINKS = {"a": bytes.fromhex("02000000000b"), "b": bytes.fromhex("02000000000c"), "c": bytes.fromhex("02000000000d")}
OURS = {4: "10.9.0.1", 6: "fd09::1"}
GATEWAYS_LINK = bytes.fromhex("0200000000fe")
PROTOCOLS = {TCP: Protocol.TCP, UDP: Protocol.UDP}
SLOTS = array("I", random.Random(3).choices(range(3), k=251))


def link_text(link: bytes) -> str:
    return link.hex(":")


def make_host() -> None:
    """One device, by which backends are reached and, by a gateway, clients; all neighbours are known."""
    commands = ["link add v0 type veth peer name v1", "link set v0 up", "link set v1 up"]
    for family, bits in ((4, 24), (6, 64)):
        commands.append(f"addr add {OURS[family]}/{bits} dev v0{' nodad' if family == 6 else ''}")
        for link, backend in zip(LINKS.values(), BACKENDS[family], strict=True):
            commands.append(f"neigh add {backend} lladdr {link_text(link)} dev v0")
        commands.append(f"neigh add {GATEWAY[family]} lladdr {link_text(GATEWAYS_LINK)} dev v0")
        commands.append(f"route add default via {GATEWAY[family]}")
    run("ip", "-batch", "-", stdin="\n".join(commands))
    set_sysctl("net.ipv4.ip_forward", "1")
    set_sysctl("net.ipv6.conf.all.forwarding", "1")


class Kernel:
    """A forwarder whose programs are tried with single packets."""

    def __init__(
        self,
        program: str,
        mode: str,
        flows: int = 1 << 12,
        *,
        to: Mapping[int, int] | None = None,
        gue_port: int = 0,
        source: Mapping[int, str] | None = None,
        inherited: Inherited | None = None,
        keeping: Keeping | None = None,
        **pool: object,
    ) -> None:
        """`to`: of which family the backends of a service are, if not of its own; `source`: what they see by full NAT,
        by family; `inherited`, `keeping`: as of a forwarder."""
        self.name = program
        self.mode = mode
        self.pool = pool
        self.to = to or {4: 4, 6: 6}
        self.gue_port = gue_port
        self.source = source or {4: "", 6: ""}
        self.forwarder = KernelForwarder(images(), slots=1 << 12, flows=flows, inherited=inherited, keeping=keeping)
        self.program = self.forwarder.program(program)
        self.publish()

    def publish(self, slots: array[int] = SLOTS, listeners: bool = True, prefix: str = "", **listener: object) -> None:
        """`prefix`: of the listeners' names."""
        made = self.snapshot(slots, prefix, **listener)
        self.forwarder.publish(made if listeners else replace(made, listeners=()))

    def snapshot(self, slots: array[int] = SLOTS, prefix: str = "", **listener: object) -> Snapshot:
        pools, found = [], []
        for family, kind in FAMILIES.items():
            for protocol in PROTOCOLS.values():
                name = f"{protocol}{family}"
                backends = tuple(
                    BackendSpec(id_, SocketAddress(FAMILIES[self.to[family]], host, 8080))
                    for id_, host in zip(LINKS, BACKENDS[self.to[family]], strict=True)
                )
                usable = (0, 1, 2)
                pools.append(PoolSpec(name, Selection.HASH, backends, usable, slots, **self.pool))  # type: ignore[arg-type]
                bind = (SocketAddress(kind, SERVICE[family], 80),)
                terms = KernelTerms(self.mode, gue_port=self.gue_port, source=self.source[family])
                options = {"kernel": terms, **listener}
                found.append(ListenerSpec(prefix + name, bind, name, protocol, **options))  # type: ignore[arg-type]
        return Snapshot(1, tuple(pools), tuple(found))

    def sees(self, frame: Frame, cut: int | None = None) -> tuple[int, bytes]:
        return self.program.test(frame.bytes(cut))

    def sent(self, frame: Frame, cut: int | None = None) -> bytes:
        verdict, out = self.sees(frame, cut)
        assert verdict == SENT[self.name], (verdict, self.forwarder.verdicts())
        return out

    def goes_to(self, frame: Frame) -> str:
        """The backend's id."""
        out = self.sent(frame)
        return next(id_ for id_, link in LINKS.items() if out[:6] == link)


@contextlib.contextmanager
def kernel(program: str, mode: str, **options: object) -> Iterator[Kernel]:
    made = Kernel(program, mode, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.forwarder.close()


def on_a_host(function: Callable[[], None]) -> None:
    def inside() -> None:
        make_host()
        function()

    in_namespace(inside)


def request(family: int, protocol: int, number: int = 7, payload: bytes = b"hello", flags: int = SYN) -> Frame:
    return Frame(
        CLIENT[family].format(number), SERVICE[family], 10_000 + number, 80, protocol, flags=flags, payload=payload
    )


def expected(frame: Frame, pool: dict[str, object], key: HashKey = HashKey.SOURCE_IP) -> str:
    found = client_hash(
        key, (frame.source, frame.source_port), (frame.destination, frame.destination_port), protocol=frame.protocol,
        seed=int(str(pool.get("hash_seed", 0))), prefix_v4=int(str(pool.get("hash_prefix_v4", 32))),
        prefix_v6=int(str(pool.get("hash_prefix_v6", 128))),
    )  # fmt: skip
    return list(LINKS)[SLOTS[found % len(SLOTS)]]
