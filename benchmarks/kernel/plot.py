"""kernel.png: what each takes of the proxy's CPU time, a panel for each kind of work; below, packets alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kernel.peers import AGAIN, DSR, NAT, NFTABLES, PROXY, ROUTED

if TYPE_CHECKING:
    from benchmarks.kernel.results import Packets, Work

COLOURS = {NAT: "#2a6f97", DSR: "#468faf", PROXY: "#e9a15b", NFTABLES: "#8ab17d", ROUTED: "#9d8cc2", AGAIN: "#bbbbbb"}
OURS, BAR = "#2a6f97", "#c1121f"
INK = {1.0: "white", 0.45: "#222222"}  # on bars in full colour, of the fewer flows, and on those of the more


def _bar(axes: Any, place: float, values: Sequence[float], text: str, **looks: Any) -> None:
    """The median of `values`, with a thin line from the least to the most."""
    axes.barh(place, statistics.median(values), **looks)
    axes.hlines(place, min(values), max(values), color="#333333", linewidth=1)
    box = {"facecolor": "white", "linewidth": 0, "pad": 0.6}
    where = (max(*values, 0), place)
    axes.annotate(text, where, (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)


def _labelled(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_work(axes: Any, work: Work) -> None:
    names = [name for name in work.names if name != PROXY]
    for place, name in enumerate(names):
        if (limit := work.limit(name)) is not None:
            axes.vlines(limit, place - 0.42, place + 0.42, color=BAR, linewidth=2)
        _bar(axes, place, work.shares(name), f"{work.share(name):.2f}", height=0.6, color=COLOURS[name])
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.axvline(1, color=COLOURS[PROXY], linewidth=1.5)
    axes.set_title(work.comparison.title, fontsize=9)
    _labelled(axes, names)


def _plot_packets(axes: Any, packets: Packets) -> None:
    for place, (name, found) in enumerate(packets.above_drop.items()):
        for offset, (flows, strength, values) in enumerate(zip(packets.flows, INK, found, strict=True)):
            looks = {"height": 0.36, "alpha": strength, "color": COLOURS.get(name, OURS)}
            _bar(axes, place + 0.38 * offset - 0.19, values, f"{statistics.median(values):.0f}", **looks)
            where = (0, place + 0.38 * offset - 0.19)
            axes.annotate(f" {flows:,} flows", where, va="center", fontsize=6, color=INK[strength])
    axes.vlines(packets.limit, -0.42, 0, color=BAR, linewidth=2)
    axes.set_xlabel("ns above a drop, for a datagram of 18 bytes, on one CPU", fontsize=9)
    _labelled(axes, list(packets.above_drop))


def plot(file: Path, works: Sequence[Work], packets: Packets | None) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(13, 7.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    each = upper.subplots(1, len(works), sharex=True, sharey=True, squeeze=False)
    for axes, work in zip(each[0], works, strict=True):
        _plot_work(axes, work)
    meaning = (
        "CPU time above a direct connection, the proxy's = 1 (less is better). Thin: least to most of a round. Red: bar"
    )
    upper.supxlabel(meaning, fontsize=9)
    if packets is not None:
        _plot_packets(lower.subplots(), packets)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
