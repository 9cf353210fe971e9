"""``policy = "newest"``: the backends with the highest version first, ``tags = { version = "12" }``."""

from __future__ import annotations

from l4lb.policies import Candidate, Candidates, ranking_policy


def version(backend: Candidate) -> int:
    """Of a backend without one: lower than all others."""
    text = backend.tags.get("version", "")
    return int(text) if text.isdigit() else -1


def by_version(candidates: Candidates) -> list[int]:
    """An older backend gets sessions only when every newer one is full (max_sessions), down or refuses."""
    indices = range(len(candidates.backends))
    return sorted(indices, key=lambda index: version(candidates.backends[index]), reverse=True)


newest = ranking_policy(by_version)
