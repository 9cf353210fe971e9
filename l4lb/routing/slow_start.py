"""How the share of a backend grows after its return, in steps, since each step is a snapshot."""

from __future__ import annotations

STEPS = 20


def share(elapsed_s: float, duration_s: float) -> float:
    """The share of its weight, `elapsed_s` after the return: from 1 / STEPS to exactly 1."""
    if elapsed_s >= duration_s:
        return 1.0
    return (int(max(elapsed_s, 0.0) / duration_s * STEPS) + 1) / STEPS


def wait_s(elapsed_s: float, duration_s: float) -> float:
    """Seconds until the next step; 0 when there is none."""
    if elapsed_s >= duration_s:
        return 0.0
    elapsed_s, step_s = max(elapsed_s, 0.0), duration_s / STEPS
    due_s = (int(elapsed_s / duration_s * STEPS) + 1) * step_s
    return max(due_s - elapsed_s, step_s / 100)  # rounding must never give 0 before the last step
