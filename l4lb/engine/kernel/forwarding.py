"""Snapshots into the maps of the programs: what of them is for listeners with ``engine = "kernel"``.

A publish writes new tables where no service points to yet, then replaces the services that changed, one after the
other: each packet goes by the whole of one state of its service. What has not changed costs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import Attached
from l4lb.engine.kernel.backends import Backends, Owner, Placed
from l4lb.engine.kernel.counting import Counting
from l4lb.engine.kernel.denying import Denied
from l4lb.engine.kernel.devices import Devices
from l4lb.engine.kernel.flows import Counted, Flows, FlowSweep, Numbered, Numbers
from l4lb.engine.kernel.generation import Generation, contents, first_generation
from l4lb.engine.kernel.inherited import Inherited
from l4lb.engine.kernel.layout import SIZES, Counts, Verdict
from l4lb.engine.kernel.listeners import KernelListener, Listeners, Plan
from l4lb.engine.kernel.pinning import Keeping
from l4lb.engine.kernel.services import Planner, expect_room
from l4lb.engine.kernel.slots import words_of
from l4lb.engine.kernel.sources import Sources
from l4lb.errors import ConfigError, EngineError, Problem
from l4lb.model.sessions import SessionFilter
from l4lb.model.snapshot import ListenerSpec, Snapshot
from l4lb.model.states import Protocol
from l4lb.model.stats import Device

SLOTS = 1 << 20  # of all tables together, and once more of those that change; more when they need it
_FLOWS_AGAIN_S = 0.5  # how old the count of flows may be
_HANDSHAKE_S = 1.0  # a flow may begin so long after its listener has left


class KernelForwarder:
    """`images` are the object files of the two programs; `slots` and `flows` bound what the maps hold: slots of all
    tables together (they grow when listeners need more), known flows of each protocol, and as many connection ids of
    QUIC.

    `inherited`: what another process has in the kernel. Its programs forward until `take_over`; what is published
    before waits for that. `keeping`: where everything is kept in case this process does not end by `close`. OSError
    when the kernel does not take the programs, or keeps nothing.
    """

    def __init__(
        self,
        images: Mapping[str, bytes],
        *,
        slots: int = SLOTS,
        flows: int = 1 << 18,
        inherited: Inherited | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        sizes = {"slots": words_of(slots), **dict.fromkeys(layout.FLOW_MAPS, flows)}
        self._inherited = inherited
        self._generation = first_generation(images, sizes, inherited)
        self._next: Generation | None = None  # once it is filled
        maps = self._generation.maps
        self._counting = Counting(maps)
        self._flows = Flows({protocol: maps[f"{protocol}_flows"].number for protocol in Protocol})
        self._backends = Backends(_memory(maps["backends"], "backend"), _memory(maps["places"], "place"))
        self._planner = Planner(self._backends, Sources(maps["sources"].number), self._counting.of_backend)
        self._listeners = Listeners(_memory(maps["numbers"], "number"))
        self._denied = Denied(maps["denied"])
        self._named: frozenset[str] = frozenset()  # listeners of the snapshot
        self.keeping = keeping or Keeping()
        self._devices = Devices(inherited.living_links() if inherited is not None else (), self.keeping)
        self.keeping.begin(self._generation, inherited, self.attached)
        self._waits = inherited is not None
        self._wanted: Snapshot | None = None  # while it waits: the newest one,
        self._leaving: list[tuple[str, Sequence[str]]] = []  # ... and what is to leave

    def program(self, name: str) -> kernel.Program:
        """xdp or tcx."""
        return self._generation.program(name)

    # ---- devices ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        """Make room for the tables of these listeners, and see packets by all devices that they need. ConfigError when
        that cannot be had; what was attached stays, and does nothing."""
        self._backends.find_sources_again()
        bound = [(one, one.kernel) for one in listeners if one.kernel is not None and one.bind]
        problems = [
            problem
            for listener, terms in bound
            for problem in self._devices.attach_for(listener, terms, self._generation.program)
        ]
        if problems:
            raise ConfigError(problems)
        tables = {(one.pool, one.protocol): terms.slots for one, terms in bound}
        self._make_room(2 * sum(map(words_of, tables.values())))  # all of them may change at once

    def _make_room(self, words: int) -> None:
        """ConfigError when the programs cannot be loaded again."""
        current = self._next or self._generation
        if words <= current.slots.words:
            return
        try:
            self._next = current.larger(1 << (words - 1).bit_length())
            self.keeping.keep(self._next)
        except OSError as error:
            reason = "start l4lb anew" if error.errno == errno.EPERM else error.strerror
            message = f"these tables need more room in the kernel, which cannot be had: {reason}"
            raise ConfigError([Problem("listeners", message)]) from error

    def forget_prepared(self) -> None:
        self._next = None
        self.keeping.keep_only(self._generation)

    @property
    def attached(self) -> list[Attached]:
        return self._devices.attached

    def devices(self, listener: str = "") -> Iterable[Device]:
        """By which packets are seen; with a listener's name, those that it needs."""
        attached = self._devices.attached_for(listener) if listener else self._devices.attached
        return (Device(one.device, one.way, one.why) for one in attached)

    # ---- snapshots ----

    def publish(self, snapshot: Snapshot) -> None:
        """ConfigError when the maps are too small for it; then nothing has changed."""
        if self._waits:
            self._wanted = snapshot
            return
        with contextlib.suppress(EngineError):  # what cannot be counted now is forgotten later
            self.reap()
        generation = self._next or self._generation
        try:
            self._publish(snapshot, generation)
        except (MemoryError, OSError) as error:
            raise ConfigError([Problem("listeners", f"forwarding in the kernel: {error}")]) from error
        if generation is not self._generation:
            self._use(generation)

    def _use(self, generation: Generation) -> None:
        """Have the programs of `generation`, which is filled, forward."""
        self._devices.replace(generation.program)
        self._generation, self._next = generation, None
        self.keeping.keep_only(generation)

    def _publish(self, snapshot: Snapshot, generation: Generation) -> None:
        pools = {pool.name: pool for pool in snapshot.pools}
        named = {one.name: one for one in snapshot.listeners if one.kernel is not None}
        plans: list[tuple[KernelListener, Plan]] = []
        try:
            for spec in named.values():
                pool, listener = pools[spec.pool], self._listeners.named(spec.name)
                if listener is None or not listener.is_planned(spec, pool, generation):
                    listener = listener or self._new_listener(spec.name, plans)
                    plans.append((listener, self._planner.plan(listener, spec, pool, generation)))
            expect_room(plans, generation)
            self._denied.set((one, (plan.spec.refused, plan.spec.banned)) for one, plan in plans)
        except BaseException:
            for _, plan in plans:
                self._planner.drop(plan)
            raise
        self._named = frozenset(named)
        before = [self._commit(listener, plan) for listener, plan in plans]
        drained = [listener for listener, plan in plans if not plan.spec.bind]
        for one in (*drained, *self._listeners.besides(named.keys())):
            self._leave(one)
        for plan in filter(None, before):
            self._planner.drop(plan)
        generation.slots.drop_taken()

    # ---- what a listener is to be ----

    def _new_listener(self, name: str, plans: Sequence[tuple[KernelListener, Plan]]) -> KernelListener:
        listener = self._listeners.new(name, {one.number for one, _ in plans})
        listener.base = self._counting.of_listener(listener.number)
        return listener

    # ---- and is ----

    def _commit(self, listener: KernelListener, plan: Plan) -> Plan | None:
        """Returns what it was before."""
        before, listener.plan, listener.name = listener.plan, plan, plan.spec.name
        self._listeners.add(listener)
        for key, value in plan.answers.items():
            plan.generation.write("answers", key, value)
        for key, value in plan.services.items():
            plan.generation.write("services", key, value)
        if plan.spec.bind:
            listener.left, listener.idle_s = False, plan.spec.idle_timeout_s
        left = {key: listener.left_service(value) for key, value in listener.left_services()}
        if any(listener.services[key] != value for key, value in left.items()):
            listener.left_at = time.monotonic()
        for key, value in left.items():
            self._leave_service(listener, key, value)
        listener.services = {**left, **plan.services}
        self._listeners.note_leaving(listener, bool(left))
        self._listeners.record(listener)
        usable = {plan.pool.backends[index].id for index in plan.pool.usable}
        pairs = zip(plan.pool.backends, plan.placed, strict=True)
        self._backends.forgive(placed for spec, placed in pairs if placed.left and spec.id in usable)
        return before

    def _leave(self, listener: KernelListener) -> None:
        """Only the flows it has go on."""
        if not listener.left:
            listener.left, listener.left_at = True, time.monotonic()
            self._listeners.record(listener)
        for key, value in listener.services.items():
            self._leave_service(listener, key, listener.left_service(value))
        listener.services = {key: listener.left_service(value) for key, value in listener.services.items()}
        self._listeners.note_leaving(listener, True)
        if listener.plan is not None and listener.name not in self._named:
            self._planner.drop(listener.plan)
            listener.plan = None

    def _leave_service(self, listener: KernelListener, key: bytes, value: bytes) -> None:
        """Unless the address is another listener's by now."""
        generation = self._next or self._generation
        written = generation.services.get(key)
        if written is None or layout.service_parts(written)[0] == listener.number:
            generation.write("services", key, value)

    def leave(self, pool: str, backends: Sequence[str]) -> None:
        """What these backends have goes to others, with its next packet, and does not come back."""
        if self._waits:
            self._leaving.append((pool, backends))
        else:
            self._backends.leave(pool, backends)

    def reap(self) -> None:
        """Forget what only waits for its flows to end, and has none any more: listeners that are gone or drain,
        addresses that a listener has left, backends that were removed. EngineError when flows cannot be counted."""
        now = time.monotonic()
        if self._waits or not any(self._ending(Counted(now, {}, {}))) or not any(self._ending(self._count_flows())):
            return
        for forget in list(self._ending(self._count_flows(after=now), now)):  # a flow of this moment counts too
            forget()

    def _ending(self, counted: Counted, after: float = float("-inf")) -> Iterator[Callable[[], None]]:
        """How to forget each of those that have no flow; `after`: when they had none."""
        for one in self._listeners.leaving.values():
            is_old_enough = counted.at >= min(after, one.left_at + _HANDSHAKE_S)
            if is_old_enough and not counted.by_listener.get(one.number):
                yield partial(self._forget, one)
        for placed in self._backends.removed():
            is_old_enough = counted.at >= min(after, placed.removed_at + _HANDSHAKE_S)
            if is_old_enough and not counted.by_backend.get(placed.index):
                yield partial(self._forget_backend, placed)

    def _forget(self, one: KernelListener) -> None:
        for key, value in list(one.services.items()) if one.left else one.left_services():
            self._generation.remove("services", key, value)
            del one.services[key]
        self._listeners.note_leaving(one, False)
        if one.left:
            self._denied.set([(one, (b"", b""))])
            if one.name not in self._named:
                self._listeners.remove(one)

    def _forget_backend(self, placed: Placed) -> None:
        self._backends.forget(placed)
        answer = self._generation.answers.get(placed.endpoint)
        if answer is not None and layout.answer_backend(answer) == placed.index:
            self._generation.remove("answers", placed.endpoint, answer)

    # ---- from one process to the next ----

    def exported(self) -> Inherited:
        """For another process. Descriptors stay this one's."""
        generation = self._generation
        return Inherited(kernel.LAYOUT, generation.digests, generation.maps, generation.programs, self.attached)

    def hold(self) -> None:
        """Change nothing from now on: another process takes over, or `take_over` ends this."""
        self._waits = True

    def take_over(self) -> None:
        """Nobody else changes anything from now on. ConfigError: see `publish`."""
        if self._waits:
            self._go_on()
        self.keeping.end_unwanted()

    def _go_on(self) -> None:
        self._waits = False
        if self._inherited is None or self._inherited.layout == kernel.LAYOUT:
            self._read_again()
        snapshot, self._wanted, self._inherited = self._wanted, None, None
        if snapshot is not None:
            self.publish(snapshot)
        self._use(self._generation)
        leaving, self._leaving = self._leaving, []
        for pool, backends in leaving:
            self._backends.leave(pool, backends)

    def _read_again(self) -> None:
        """What another process may have written."""
        source = self._inherited.maps if self._inherited is not None else self._generation.maps
        services = contents(source["services"].number, SIZES["endpoint"], SIZES["service"])
        self._backends.take_over()
        self._listeners.take_over(services, self._denied.all())
        if source["services"] is self._generation.maps["services"]:
            self._generation.read_again()

    # ---- what is counted ----

    def names(self) -> list[str]:
        """Of listeners that are here, or have flows here still."""
        return [one.name for one in self._listeners.all() if one.name]

    def listener(self, name: str) -> Counts:
        """Of one that is here."""
        known = self._listeners.named(name)
        return self._counting.of_listener(known.number).since(known.base) if known is not None else Counts()

    def by_backend(self) -> dict[Owner, Counts]:
        found: dict[Owner, Counts] = {}
        for owner, one in self._backends.named():
            counts = self._counting.of_backend(one.index).since(one.base)
            found[owner] = counts.plus(found.get(owner, Counts()))
        return found

    def verdicts(self) -> dict[Verdict, int]:
        return self._counting.verdicts()

    def flows_on(self, listener: str) -> int:
        known = self._listeners.named(listener)
        return self._count_flows().by_listener.get(known.number, 0) if known else 0

    def flows_of(self, pool: str, backend: str) -> int:
        return self.flows_by_backend().get((pool, backend), 0)

    def flows_by_backend(self) -> dict[Owner, int]:
        """Those that have any."""
        owners, found = self._backends.owners(), dict[Owner, int]()
        for index, count in self._count_flows().by_backend.items():
            if (owner := owners.get(index)) is not None:
                found[owner] = found.get(owner, 0) + count
        return found

    def find_flows(self, wanted: SessionFilter, limit: int) -> FlowSweep:
        """Begin to look for them; EngineError when no thread can be started for that."""
        return self._flows.find(wanted, limit, self._numbers())

    def _count_flows(self, after: float | None = None) -> Counted:
        """See `l4lb.engine.kernel.flows` for which are there, and how old this may be."""
        return self._flows.count(self._numbers, time.monotonic() - _FLOWS_AGAIN_S if after is None else after)

    def _numbers(self) -> Numbers:
        numbered = (Numbered(one.name, one.number, one.idle_s, one.since_ns) for one in self._listeners.all())
        return Numbers(numbered, self._backends.all())

    # ---- the end ----

    def give_up(self) -> None:
        """Another process forwards. Idempotent."""
        self._flows.close()
        self._devices.close()
        self.keeping.give_up()

    def close(self) -> None:
        """Packets go up the stack again. Idempotent."""
        self.keeping.remove()
        self.give_up()


def _memory(fd: kernel.Fd, what: str) -> kernel.Memory:
    return kernel.Memory(fd.number, SIZES[what] * kernel.shape(fd.number).entries)
