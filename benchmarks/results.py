"""The comparisons as text, as RESULTS.md and as a plot."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import newer
from benchmarks.comparing import ADDED, OWN, Comparison
from benchmarks.configurations import DNSDIST, HAPROXY, L4LB, L4LB_UDP, NGINX, NGINX_UDP
from benchmarks.peers import DIRECT

COLOURS = {"l4lb": "#2a6f97", "nginx": "#8ab17d", "haproxy": "#e9a15b", "dnsdist": "#9d8cc2"}


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _rows(comparison: Comparison) -> list[list[str]]:
    """A row a metric: its medians, the ratios to each peer, and the bar if it has one."""
    bars = {bar.metric: bar for bar in comparison.bars}
    others = [name for name in comparison.names if name not in ("l4lb", DIRECT)]
    rows = [["", *comparison.names, *(f"l4lb / {name}" for name in others), "bar", "met"]]
    for metric in comparison.metrics:
        one_is_too_many = metric == "failed"  # the sum, and no ratio
        figure = comparison.total if one_is_too_many else comparison.median
        row = [metric]
        row += [number(figure(name, metric)) if comparison.has(name, metric) else "" for name in comparison.names]
        row += [
            "" if one_is_too_many or not comparison.has(name, metric) else f"{comparison.ratio(name, metric):.2f}"
            for name in others
        ]
        bar = bars.get(metric)
        met = "" if bar is None else "yes" if bar.met(comparison.ratio_to_better(bar)) else "no"
        rows.append([*row, "" if bar is None else str(bar), met])
    return rows


def markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


@dataclass
class Results:
    """All comparisons of one run, and single figures."""

    rounds: int
    seconds: int
    comparisons: list[Comparison] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)

    def tables(self) -> list[str]:
        """Every comparison as lines of text."""
        lines = []
        for comparison in self.comparisons:
            lines += ["", comparison.title]
            rows = _rows(comparison)
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            for row in rows:
                lines.append("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        return lines + [f"{name}: {value}" for name, value in self.figures]

    def write(self, directory: Path, machine: list[str]) -> None:
        """RESULTS.md and results.png in `directory`."""
        self.plot(directory / "results.png")
        text = [
            "# Results",
            "",
            f"Written by `make bench` on {datetime.date.today()}: medians of {self.rounds} interleaved rounds, "
            f"{self.seconds} s each; one worker each; load, backend and load balancer share the machine. "
            "A ratio is the median of the rounds' ratios, and a bar is held against the better peer. On loopback it is "
            "chance which process is charged for the work on a packet: so next to the CPU time of the load balancer "
            "stands that of all (client, load balancer, backend, the kernel's softirq threads) above what the same "
            "work takes over a direct connection. `floor` is a bare loop in C that makes the calls which forwarding "
            "takes, and nothing else (floor.c): what no load balancer of this kind can go below. Forwarding in the "
            "kernel is in [KERNEL.md](KERNEL.md).",
            "",
            *(f"- {line}" for line in machine),
            "",
            "![CPU time of l4lb and of others for a unit of each kind of work](results.png)",
            "",
        ]
        for comparison in self.comparisons:
            text += [f"## {comparison.title}", "", *markdown(_rows(comparison)), ""]
        if self.figures:
            text += ["## l4lb alone", "", *markdown([["", ""], *map(list, self.figures)]), ""]
        configs = {
            "l4lb": L4LB.replace("{workers}", "1"), "nginx": NGINX, "HAProxy": HAPROXY,
            "l4lb, UDP": L4LB_UDP.replace("{workers}", "1"), "nginx, UDP": NGINX_UDP, "dnsdist": DNSDIST,
        }  # fmt: skip
        for name, config in configs.items():
            text += [f"## Configuration of {name}", "", "```", config.strip(), "```", ""]
        (directory / "RESULTS.md").write_text("\n".join(text), encoding="utf-8")

    def plot(self, file: Path) -> None:
        """CPU time for a unit of work, as a share of the better peer's, by kind of work: own, and of all."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        panels = {OWN: "of the load balancer's process", ADDED: "of all that take part, above a direct connection"}
        shown = [one for one in self.comparisons if "nginx" in one.names and all(one.has("l4lb", of) for of in panels)]
        figure, each = pyplot.subplots(
            1, 2, sharey=True, figsize=(12, 1.2 + 0.75 * len(shown)), layout="constrained", squeeze=False
        )
        for axes, (metric, meaning) in zip(each[0], panels.items(), strict=True):
            for index, comparison in enumerate(shown):
                best = min(comparison.median(name, metric) for name in comparison.others)
                for offset, name in enumerate(["l4lb", *comparison.others]):
                    share = comparison.median(name, metric) / best
                    drawn = axes.barh(index + (offset - 1) * 0.26, share, 0.24, color=COLOURS[name])
                    axes.bar_label(drawn, [f"{share:.2f}"], padding=3, fontsize=8)
            axes.axvline(1.0, color="#999999", linewidth=0.8)
            axes.set_xlabel(f"CPU time {meaning}")
            axes.spines[["top", "right"]].set_visible(False)
        each[0][0].set_yticks(range(len(shown)), [one.title for one in shown])
        each[0][0].set_ylim(len(shown) - 0.5, -0.5)
        seen = [name for name in COLOURS if any(name in one.names for one in shown)]
        marks = [mpl.patches.Patch(color=COLOURS[name], label=name) for name in seen]
        title = f"CPU time for a unit of work, better peer = 1 (less is better); others of {newer.origin()}"
        figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False, title=title)
        figure.savefig(file, dpi=110)
