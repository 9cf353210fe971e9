"""What was counted in the last minutes, as the admin API shows it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.control.reporting import part_shapes
from l4lb.control.state.history import INTERVAL_S, History
from l4lb.model.stats import WorkerStats


def history_of(history: History, pool: str, workers: Sequence[WorkerStats]) -> part_shapes.History:
    """Of one pool, or of all together for an empty name; `workers` know the bounds of their histograms."""
    series, length = history.series(pool), len(history.at)
    return {
        "pool": pool,
        "interval_s": INTERVAL_S,
        "at": [round(at, 3) for at in history.at],
        "uptime_s": [round(uptime_s, 3) for uptime_s in history.uptime_s],
        "sessions_active": series.column("sessions_active", length),
        "sessions_total": series.column("sessions_total", length),
        "bytes_up": series.column("bytes_up", length),
        "bytes_down": series.column("bytes_down", length),
        "connect_bounds_s": list(workers[0].connect_time.bounds_s) if workers else [],
        "connects": [list(counts) for counts in history.connects],
    }
