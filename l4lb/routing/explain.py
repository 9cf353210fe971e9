"""Which backend a client gets, and why: retraces `_dataplane/balancing/pick.pxd:pool_pick`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, gcd

import xxhash

from l4lb.model.snapshot import HashKey, Selection
from l4lb.routing.candidates import Tier
from l4lb.routing.hashing import TCP, Endpoint, client_hash

PROBES = 8  # HASH_PROBES of lookup.pxd
NAMED_MAX = 3  # in one sentence

HOW = {
    Selection.CURSOR: "each in turn, as often as its weight says; the next in turn gets the next session",
    Selection.HASH: "drawn at random for each session, as often as its weight says",
    Selection.TWO_CHOICES: "the one with fewer sessions for its weight, of two drawn at random for each session",
    Selection.PEAK_EWMA: (
        "of two drawn at random for each session, the one with the smaller product of its sessions for its weight and "
        "the time that connects and answers lately took"
    ),
    Selection.LEAST_SESSIONS: "the one with the fewest sessions for its weight; the order is that of this moment",
    Selection.FIRST: "the first in the order of the configuration that has a place",
}
HOW_HASHED = "the slot of the table that the client's hash names; the next ones serve when it is full or refuses"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable backend with its current sessions. `limit`: by max_sessions and bounded_load; 0: none."""

    id: str
    weight: float
    sessions: int = 0
    limit: int = 0
    max_sessions: int = 0

    @property
    def full(self) -> bool:
        return 0 < self.limit <= self.sessions

    @property
    def has_place(self) -> bool:
        """Ignores bounded_load, which gives way when no backend below its bound has a place."""
        return self.max_sessions == 0 or self.sessions < self.max_sessions


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice within one tier. `order`: the first choice first; `chosen`: the backend that gets the client now, ""
    when it is drawn or comes in turn."""

    chosen: str
    order: tuple[Candidate, ...]
    how: str
    hash: int | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """`tier` is that of the `choice`, None when no usable backend has a place; `why`: why it is no earlier one.
    `order`: the candidates of all tiers in the order in which they are asked."""

    choice: Choice
    order: tuple[tuple[Tier, Candidate], ...]
    tier: Tier | None
    why: str


def load_limit(bounded_load: float, sessions: int, weight: float, total_weight: float, max_sessions: int) -> int:
    """How many sessions a backend may have when the pool has `sessions`, including the next one; 0: any number.

    Bounded load as in Mirrokni, Thorup and Zadimoghaddam, 2016: ceil(c * average), by weight.
    """
    if not bounded_load:
        return max_sessions
    bound = max(1, ceil(bounded_load * max(sessions, 1) / total_weight * weight - 1e-9))
    return min(bound, max_sessions) if max_sessions else bound


def hash_again(hashed: int, attempt: int) -> int:
    """The twin of hashing.pxd."""
    return xxhash.xxh64_intdigest(hashed.to_bytes(8, "little") + attempt.to_bytes(8, "little"))


def scan_step(hashed: int, count: int) -> int:
    """The twin of lookup.pxd: a stride that visits each of `count` once."""
    if count < 3:
        return 1
    step = hashed % (count - 1) + 1
    while gcd(step, count) != 1:
        step -= 1
    return step


def _probes(slots: Sequence[int], hashed: int, count: int) -> Iterator[int]:
    """Indices of candidates in the order in which a worker asks them, with repeats."""
    probe = hashed
    for attempt in range(PROBES):
        yield slots[probe % len(slots)]
        probe = hash_again(hashed, attempt + 1)
    start, step = probe & 0xFFFFFFFF, scan_step(probe >> 32, count)
    for index in range(count):
        yield (start + index * step) % count


def _first_with_place(order: Sequence[Candidate]) -> str:
    """The bound of bounded_load gives way when no backend below it has a place."""
    below = next((one.id for one in order if not one.full), "")
    return below or next((one.id for one in order if one.has_place), "")


def explain_hash(candidates: Sequence[Candidate], slots: Sequence[int], hashed: int) -> Choice:
    """The choice of a policy that hashes; `slots` is its table."""
    if not candidates:
        return Choice("", (), HOW_HASHED, hashed)
    order = [candidates[index] for index in dict.fromkeys(_probes(slots, hashed, len(candidates)))]
    return Choice(_first_with_place(order), tuple(order), HOW_HASHED, hashed, hashed % len(slots))


def explain_selection(selection: Selection, candidates: Sequence[Candidate]) -> Choice:
    """The choice of a policy that does not look at the client."""
    order = list(candidates)
    if selection is Selection.LEAST_SESSIONS:
        order.sort(key=lambda one: (one.sessions + 1) / one.weight)
    decided = selection in (Selection.LEAST_SESSIONS, Selection.FIRST)
    return Choice(_first_with_place(order) if decided else "", tuple(order), HOW[selection])


def _so(reasons: Sequence[str], tier: Tier) -> str:
    if not reasons:
        return ""
    more = f", and {len(reasons) - NAMED_MAX} more" if len(reasons) > NAMED_MAX else ""
    return ", ".join(reasons[:NAMED_MAX]) + f"{more}, so {tier}"


def explain_tiers(choices: Sequence[tuple[Tier, Choice]], not_before: Callable[[Tier], Sequence[str]]) -> Explained:
    """The choice of the first tier in which a backend has a place.

    `not_before`: for each backend that would come before that tier, why it is not usable.
    """
    order = tuple((tier, one) for tier, choice in choices for one in choice.order)
    full: list[str] = []
    for tier, choice in choices:
        if any(one.has_place for one in choice.order):
            return Explained(choice, order, tier, _so([*full, *not_before(tier)], tier))
        full += [f"{one.id} is full (max_sessions {one.max_sessions})" for one in choice.order]
    return Explained(choices[0][1], order, None, "every usable backend is at max_sessions" if order else "")


def hash_of(
    key: HashKey,
    source: Endpoint,
    destination: Endpoint | None,
    *,
    seed: int,
    prefix_v4: int,
    prefix_v6: int,
    protocol: int = TCP,
) -> int:
    """`client_hash`; the destination may be omitted if the key does not need it. ValueError when it is missing, and for
    a key that does not depend on addresses."""
    if key is HashKey.QUIC_CID:
        raise ValueError(f'hash_key is "{key}": the connection id in its packets decides, not where a client is')
    if destination is None:
        if key in (HashKey.DESTINATION, HashKey.SESSION):
            raise ValueError(f'hash_key is "{key}": say which address and port the client connects to')
        destination = ("0.0.0.0", 0)
    return client_hash(key, source, destination, seed=seed, prefix_v4=prefix_v4, prefix_v6=prefix_v6, protocol=protocol)
