"""Maglev, ring and rendezvous side by side: how even their tables are, and how much a loss of backends moves.

The questions of figures 11 and 12 of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
(NSDI 2016), asked of our own tables. `make tables` runs it and writes TABLES.md and tables.png beside this file.
"""

from __future__ import annotations

import datetime
import random
import statistics
from array import array
from collections import Counter
from pathlib import Path

from l4lb.model.snapshot import TableKind
from l4lb.routing.ring import points_of
from tests.support.tables import native_table

HERE = Path(__file__).parent
SIZES = (65537, 655373)
COUNTS = (3, 10, 100, 1000)
TRIALS = 5
COLOURS = {TableKind.MAGLEV: "#2a6f97", TableKind.RING: "#8ab17d", TableKind.RENDEZVOUS: "#e9a15b"}


def backends(count: int) -> list[str]:
    return sorted(f"10.0.{number // 250}.{number % 250}:80" for number in range(count))


def table(kind: TableKind, ids: list[str], size: int) -> array[int]:
    weights = [1] * len(ids)
    return native_table(kind, ids, points_of(weights) if kind is TableKind.RING else weights, size, 0)


def overprovision(kind: TableKind, count: int, size: int) -> float:
    """How far the backend with the most slots is above the mean, as a share of the mean."""
    slots = Counter(table(kind, backends(count), size))
    return max(slots.values()) / (size / count) - 1


def disruption(kind: TableKind, count: int, removed: int, size: int = SIZES[0]) -> float:
    """Share of the slots of the backends that stay which change hands all the same, mean of a few random removals."""
    ids, draw = backends(count), random.Random(count * removed)
    before = table(kind, ids, size)
    shares = []
    for _ in range(TRIALS):
        gone = set(draw.sample(range(count), removed))
        left = [index for index in range(count) if index not in gone]
        after = table(kind, [ids[index] for index in left], size)
        kept = [(old, left[new]) for old, new in zip(before, after, strict=True) if old not in gone]
        shares.append(sum(old != new for old, new in kept) / len(kept))
    return statistics.mean(shares)


def removals(count: int) -> list[int]:
    """One, 1 % and 10 %, as whole backends and each once."""
    return sorted({1, max(1, count // 100), max(1, count // 10)})


def plot(even: dict[tuple[TableKind, int, int], float], moved: dict[tuple[TableKind, int, int], float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for kind, colour in COLOURS.items():
        for size, style in zip(SIZES, ("-", "--"), strict=True):
            heights = [100 * even[kind, count, size] for count in COUNTS]
            left.plot(COUNTS, heights, style, color=colour, marker="o", label=f"{kind}, {size:,} slots")
        gone = removals(1000)
        right.plot(gone, [100 * moved[kind, 1000, one] for one in gone], color=colour, marker="o", label=str(kind))
    left.set(xscale="log", xlabel="backends", ylabel="fullest backend above the mean, %", title="Evenness")
    right.set(xscale="log", xlabel="backends lost, of 1,000", ylabel="other slots that moved, %", title="Disruption")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "tables.png", dpi=110)


def main() -> None:
    even = {(k, n, m): overprovision(k, n, m) for k in TableKind for n in COUNTS for m in SIZES}
    moved = {(k, n, r): disruption(k, n, r) for k in TableKind for n in COUNTS for r in removals(n) if r < n}
    lines = [
        "# Maglev, ring and rendezvous compared",
        "",
        f"Written by `make tables` on {datetime.date.today()}, from l4lb's own tables at equal weights.",
        "",
        "![Evenness and disruption](tables.png)",
        "",
        "## Evenness: how far the fullest backend is above the mean (figure 11 of the Maglev paper)",
        "",
        "The paper states 29.7 % for a ring and 49.5 % for rendezvous with 1,000 backends and 65,537 slots.",
        "",
        "| backends | slots | " + " | ".join(TableKind) + " |",
        "|---|---|---|---|---|",
    ]
    for count in COUNTS:
        for size in SIZES:
            cells = " | ".join(f"{100 * even[kind, count, size]:.2f} %" for kind in TableKind)
            lines.append(f"| {count:,} | {size:,} | {cells} |")
    lines += [
        "",
        "## Disruption: slots of backends that stay which move all the same (figure 12)",
        "",
        f"65,537 slots, mean of {TRIALS} random removals.",
        "",
        "| backends | lost | " + " | ".join(TableKind) + " |",
        "|---|---|---|---|---|",
    ]
    for count in COUNTS:
        for gone in removals(count):
            cells = " | ".join(f"{100 * moved[kind, count, gone]:.2f} %" for kind in TableKind)
            lines.append(f"| {count:,} | {gone} | {cells} |")
    lines += [
        "",
        "Which to take: maglev where even load matters most, which is nearly always; rendezvous where no client of a",
        "healthy backend may ever move; ring where other software must compute the same points.",
        "",
    ]
    (HERE / "TABLES.md").write_text("\n".join(lines), encoding="utf-8")
    plot(even, moved)


if __name__ == "__main__":
    main()
