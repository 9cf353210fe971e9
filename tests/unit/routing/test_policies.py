from __future__ import annotations

from typing import get_args

from l4lb.config.models import HASHING_POLICIES, Policy
from l4lb.model.snapshot import Selection
from l4lb.routing.policies import POLICIES, Candidates
from tests.support.tables import PythonTables

CANDIDATES = Candidates(("a", "b", "c"), (1, 2, 3), table_size=13, hash_seed=4)


def test_the_config_offers_what_is_registered() -> None:
    assert set(get_args(Policy)) == set(POLICIES)
    assert {name for name, policy in POLICIES.items() if policy.hashes} == set(HASHING_POLICIES)


def test_each_table_indexes_the_candidates() -> None:
    for policy in POLICIES.values():
        slots = policy.build(CANDIDATES, PythonTables())
        assert set(slots) <= {0, 1, 2}
        assert bool(slots) == (policy.selection not in (Selection.LEAST_SESSIONS, Selection.FIRST))
